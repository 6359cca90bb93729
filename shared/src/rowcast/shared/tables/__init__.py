"""Describe tables by portable shapes, and map column types."""
