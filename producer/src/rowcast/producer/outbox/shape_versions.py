"""Write the versions of tables' shapes into ``rowcast_shape``.

``rowcast.shared.tables.shape_store`` reads the versions and owns the rule for the newest version. A statement reads or
writes many tables, because an application may have a thousand tables and waits for the first write of each process.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT, UNTRANSLATED
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.row_filter import RowFilter
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.errors import CaptureError

_OPTIONS = {**UNTRANSLATED, **INTERNAL_STATEMENT}
# A statement over many tables is executed once. SQLAlchemy need not keep it.
_ONCE = {**_OPTIONS, "compiled_cache": None}

TABLES_PER_STATEMENT = 100
"""The greatest number of tables in one statement."""
_MAX_BYTES_PER_STATEMENT = 1_000_000

VersionTimes = Mapping[str, int]
"""The versions of one table in ``rowcast_shape``, each with its ``created_ms``."""


def has_rows(connection: Connection, table: CapturedTable) -> bool:
    """Return whether the table has rows."""
    return bool(tables_with_rows(connection, {table: 0}))


def tables_with_rows(connection: Connection, own_rows: Mapping[CapturedTable, int]) -> set[CapturedTable]:
    """Return the tables that have more rows than the number given for each: the rows that the transaction changed.

    All further rows are older than the capture. A table without a schema is read in the default schema, because SQL
    text may have changed the search path or the database.
    """
    default = connection.dialect.default_schema_name
    options = {**_ONCE, "schema_translate_map": {None: default} if default else None}
    found: set[CapturedTable] = set()
    tables = list(own_rows)
    for start in range(0, len(tables), TABLES_PER_STATEMENT):
        chunk = tables[start : start + TABLES_PER_STATEMENT]
        counts = [_count_up_to(table, own_rows[table] + 1) for table in chunk]
        try:
            numbers = connection.execute(sa.select(*counts), execution_options=options).one()
        except (exc.ProgrammingError, exc.OperationalError) as error:
            if error.connection_invalidated:
                raise
            names = ", ".join(sorted(table.full_name for table in chunk))
            raise CaptureError(
                f"the capture cannot read {names}: {first_line(error)}. Tables without a schema must be in "
                "the default schema that the engine read when it first connected. A listener of the pool's event "
                "connect that is added with insert=True changes the schema before that."
            ) from error
        found.update(table for table, number in zip(chunk, numbers, strict=True) if number > own_rows[table])
    return found


def _count_up_to(table: CapturedTable, limit: int) -> ColumnElement[int]:
    some: sa.Select[Any] = sa.select(sa.literal_column("1")).select_from(table.table).limit(limit)
    if table.where is not None:
        some = some.where(RowFilter(table))
    return sa.select(sa.func.count()).select_from(some.subquery()).scalar_subquery()


class StoredVersions(NamedTuple):
    """Hold the content of ``rowcast_shape`` without the documents.

    ``versions``: the versions of each table, by full name. ``captured_by``: the capture mode of each table, as text.
    """

    versions: Mapping[str, VersionTimes]
    captured_by: Mapping[str, str]


def stored_versions(connection: Connection, shape: sa.Table, names: Collection[str] | None = None) -> StoredVersions:
    """Read the versions in ``rowcast_shape``. ``names``: the full names of the tables, or None for all tables."""
    versions: dict[str, dict[str, int]] = {}
    captured_by: dict[str, str] = {}
    row = shape.c
    query = sa.select(row.table_name, row.version, row.created_ms, row.captured_by)
    if names is not None:
        query = query.where(row.table_name.in_(names))
    query = capture_dialect(connection.dialect).without_row_limit(query)
    for name, version, created_ms, mode in connection.execute(query, execution_options=_OPTIONS):
        versions.setdefault(name, {})[version] = created_ms
        captured_by[name] = mode
    return StoredVersions(versions, captured_by)


class NewShape(NamedTuple):
    """Hold a table with a new shape. ``newest``: the greatest ``created_ms`` of the table's versions, or 0."""

    table: CapturedTable
    newest: int
    rows_before: bool


def insert_shapes(connection: Connection, shape: sa.Table, new: Iterable[NewShape]) -> None:
    """Write shapes missing in ``rowcast_shape``, as the newest of their tables.

    A concurrent process may write equal shapes.
    """
    dialect = capture_dialect(connection.dialect)
    rows = (
        {
            "table_name": table.full_name,
            "version": table.version,
            "created_ms": _later_than(connection, newest),
            "rows_before": rows_before,
            "shape": table.shape.to_json().decode(),
        }
        for table, newest, rows_before in new
    )
    for chunk in _in_chunks(rows):
        connection.execute(dialect.insert_unless_there(shape, chunk), execution_options=_ONCE)


def mark_newest(connection: Connection, shape: sa.Table, table: CapturedTable, there: VersionTimes) -> None:
    """Make a stored shape the newest of its table. ``there``: the stored versions."""
    row = shape.c
    own = sa.and_(row.table_name == table.full_name, row.version == table.version)
    # A concurrent process may have made the version the newest while the statement waited.
    unchanged = row.created_ms == there[table.version]
    created = {"created_ms": _later_than(connection, max(there.values()))}
    connection.execute(sa.update(shape).where(own, unchanged).values(created), execution_options=_OPTIONS)


def _later_than(connection: Connection, newest: int) -> ColumnElement[int]:
    """Return the time now, or one millisecond after the newest version.

    The clock may have been set back, and two versions may be created in the same millisecond.
    """
    before = sa.literal(newest, sa.BigInteger)
    now = capture_dialect(connection.dialect).now_ms()
    return sa.case((now > before, now), else_=before + 1)


def _in_chunks(rows: Iterable[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        size += len(row["shape"])
        if chunk and (len(chunk) == TABLES_PER_STATEMENT or size > _MAX_BYTES_PER_STATEMENT):
            yield chunk
            chunk, size = [], len(row["shape"])
        chunk.append(row)
    if chunk:
        yield chunk
