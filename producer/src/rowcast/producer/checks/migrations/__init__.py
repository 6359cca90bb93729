"""Read the tables from Alembic's migrations, for ``rowcast check --alembic``."""
