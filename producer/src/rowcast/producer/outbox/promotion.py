"""Create the outbox tables in a replica that becomes a primary, for ``rowcast promote``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.creation import create_missing_tables
from rowcast.producer.outbox.schema import OutboxTables, missing_parts, outbox_tables
from rowcast.shared.database.engines import open_engine
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.tables.shape import ForeignKeyShape, TableShape


def create_outbox(url: URL, shapes: Sequence[TableShape]) -> list[str]:
    """Create the missing outbox tables, and write the shapes of a source on the replica's engine.

    Return the new tables. With the shapes, the relay can publish all rows before the application's first commit. On
    another engine, the application has different types, so the application's first commit writes the shapes. Raises
    ConfigurationError if another version of rowcast has created a table.
    """
    engine = open_engine(url, "promoted replica", pooled=False)
    tables = outbox_tables(sa.MetaData())
    try:
        with engine.connect() as connection:
            missing = [table.name for table in tables if missing_parts(table, connection)]
        create_missing_tables(engine, tables, lambda connection: _write_shapes(connection, tables, shapes))
    finally:
        engine.dispose()
    return missing


def _write_shapes(connection: Connection, tables: OutboxTables, shapes: Sequence[TableShape]) -> None:
    if connection.execute(sa.select(tables.shape.c.version).limit(1)).first() is not None:
        # The database was a primary before, or an earlier attempt wrote the shapes.
        return
    dialect, schema = capture_dialect(connection.dialect), default_schema(connection.dialect)
    rows = [
        {
            "table_name": shape.full_name,
            "version": shape.version,
            "created_ms": dialect.now_ms(),
            "rows_before": True,
            "shape": shape.to_json().decode(),
        }
        for shape in (_in_schema(shape, schema) for shape in shapes)
        if shape.engine == connection.dialect.name
    ]
    if rows:
        connection.execute(dialect.insert_unless_there(tables.shape, rows))


def _in_schema(shape: TableShape, schema: str) -> TableShape:
    """Return the shape with this default schema in place of the source's."""
    if not shape.default_schema:
        return shape
    keys = tuple(_refer_to(key, shape.schema, schema) for key in shape.foreign_keys)
    return replace(shape, schema=schema, foreign_keys=tuple(sorted(keys, key=repr)))


def _refer_to(key: ForeignKeyShape, before: str, after: str) -> ForeignKeyShape:
    return replace(key, referred_schema=after) if key.referred_schema == before else key
