"""Send rows of the primary again."""
