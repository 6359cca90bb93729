"""What Alembic's migrations say about the tables, for ``rowcast check --alembic``."""
