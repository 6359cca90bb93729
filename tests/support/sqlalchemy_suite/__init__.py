"""Run SQLAlchemy's own test suite with a capture on its engines."""
