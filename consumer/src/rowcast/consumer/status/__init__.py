"""Measure how far a replica is behind, for ``rowcast status`` and the public API."""
