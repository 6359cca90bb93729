"""Find out which tables exist, with a query for each schema and not for each table."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.raw_execution import keeping_options


def existing_tables(connection: Connection, tables: Collection[sa.Table]) -> set[sa.Table]:
    """Return those of the tables that exist in the database, without views."""
    folded = capture_dialect(connection.dialect).folded_table_name
    dialect = connection.dialect
    names: dict[str | None, set[str]] = {}
    with keeping_options(connection):
        inspector = sa.inspect(connection)
        for schema in {table.schema for table in tables}:
            # SQL text may have changed the search path or the database.
            found = inspector.get_table_names(schema=schema or dialect.default_schema_name)
            names[schema] = {folded(name, dialect) for name in found}
    return {table for table in tables if folded(table.name, dialect) in names[table.schema]}
