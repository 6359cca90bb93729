"""The tables of a swap: the live table for readers, the fresh table, and the old table left over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.replica.dialects import LIVE, ReplicaDialect, TableNaming, quoted_name, replica_dialect
from rowcast.consumer.replica.dialects.naming import FRESH_PREFIX, OLD
from rowcast.consumer.replica.table_definitions import replica_name
from rowcast.consumer.replica.worker_tables import ROWCAST_TABLE, select_rows
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_document import parse_recorded_shape


@dataclass(frozen=True, slots=True)
class SwappedTable:
    """A table of the source in the replica.

    ``schema``: None for the default schema. ``live``, ``fresh`` and ``old``: names of tables. ``before``: the shape of
    the live table, or None without a live table. ``after``: the shape of the fresh table, or None if the table is gone
    after the rebuild.
    """

    full_name: str
    schema: str | None
    live: str
    fresh: str
    old: str
    before: TableShape | None
    after: TableShape | None

    def quoted(self, connection: Connection, name: str) -> str:
        """Return ``name`` with the table's schema, ready for SQL."""
        return quoted_name(connection, self.schema, name)


def swapped_tables(
    before: Mapping[str, TableShape], after: Mapping[str, TableShape], dialect: ReplicaDialect
) -> list[SwappedTable]:
    """Return the tables of a rebuild, by the shapes of the live tables and of the fresh tables.

    A table whose default schema has another name at a new primary is the same table of the replica.
    """
    befores = {named(shape, dialect, LIVE): shape for shape in before.values()}
    afters = {named(shape, dialect, LIVE): shape for shape in after.values()}
    found = []
    for place in befores.keys() | afters.keys():
        shape = afters.get(place) or befores[place]
        schema, live = place
        _, fresh = named(shape, dialect, TableNaming(FRESH_PREFIX))
        _, old = named(shape, dialect, OLD)
        found.append(SwappedTable(shape.full_name, schema, live, fresh, old, befores.get(place), afters.get(place)))
    return sorted(found, key=lambda table: table.full_name)


def named(shape: TableShape, dialect: ReplicaDialect, naming: TableNaming) -> tuple[str | None, str]:
    """Return schema and name of a source's table under a naming."""
    schema, name = replica_name(shape, dialect)
    return schema, naming.table(name)


def recorded_shapes(connection: Connection, source: str, *, created: bool | None = None) -> dict[str, TableShape]:
    """Return the shapes in ``rowcast_table`` by ``schema.table``. ``created``: only those of the worker, or not."""
    if not sa.inspect(connection).has_table(ROWCAST_TABLE.name):
        return {}
    rows = connection.execute(select_rows(connection, ROWCAST_TABLE).where(ROWCAST_TABLE.c.source == source))
    wanted = (row for row in rows if created is None or bool(row.created) == created)
    return {row.table_name: parse_recorded_shape(row.shape) for row in wanted}


def existing_tables(connection: Connection, tables: Iterable[SwappedTable]) -> list[SwappedTable]:
    """Return the tables, without ``before`` where the live table does not exist any more."""
    inspector = sa.inspect(connection)
    return [table if inspector.has_table(table.live, table.schema) else replace(table, before=None) for table in tables]


def strangers(engine: Engine, source: str, own: Mapping[str, TableShape], after: Mapping[str, TableShape]) -> list[str]:
    """Return the tables that stand where a rebuilt table is to be, and that no worker of the source created."""
    dialect = replica_dialect(engine.dialect.name)
    taken = {named(shape, dialect, LIVE) for shape in own.values()}
    new = {name: shape for name, shape in after.items() if named(shape, dialect, LIVE) not in taken}
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        return [
            f"table {table.live} exists, and no worker of source {source} created it"
            for table in swapped_tables({}, new, dialect)
            if inspector.has_table(table.live, table.schema)
        ]
