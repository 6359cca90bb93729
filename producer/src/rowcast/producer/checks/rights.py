"""Try the rights of ``rowcast relay`` in the primary."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.database.rights import WRITES, Right, is_refused, refused_rights, rights_finding, table_rights
from rowcast.shared.errors import DataError
from rowcast.shared.findings import Finding
from rowcast.shared.tables.shape_store import newest_shapes


def rights(connection: Connection, area: str) -> Generator[Finding, None, bool]:
    """Yield the finding about the rights of the connection's user. Return whether the user may read all tables."""
    tried = list(_wanted(connection))
    connection.rollback()
    refused = refused_rights(connection, tried)
    user = connection.engine.url.username or "of this process"
    yield rights_finding(area, tried, refused, user, "rowcast relay")
    return not any(right.name == "SELECT" for right in refused)


def unreadable_tables(connection: Connection, tables: Iterable[sa.Table]) -> list[sa.Table]:
    """Return the tables without the right to read. The catalog of MariaDB and MySQL hides the tables."""
    found_none = sa.select(sa.literal(1)).where(sa.false())
    return [table for table in tables if is_refused(connection, found_none.select_from(table))]


def _wanted(connection: Connection) -> Iterator[Right]:
    tables = outbox_tables(sa.MetaData())
    for table in tables:
        # Only batches of the application use the table.
        if table is not tables.batch:
            names = ("SELECT", "UPDATE") if table is tables.shape else ("SELECT", *WRITES)
            yield from table_rights(table.name, None, [column.name for column in table.c], names)
    try:
        shapes = newest_shapes(connection)
    except DataError:
        # Another check reports a damaged shape.
        return
    for shape in shapes.values():
        # A snapshot reads the rows.
        schema = None if shape.default_schema else shape.schema
        yield from table_rights(shape.name, schema, [column.name for column in shape.columns], ("SELECT",))
