"""Show what is in the topics of a source, for ``rowcast topics``."""
