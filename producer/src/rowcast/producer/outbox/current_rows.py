"""Write the current state of rows to the outbox, as a transaction of its own.

The rows are read under their locks, and the outbox id is assigned under the locks, as by the drain. Therefore the
images are newer than every event with a smaller lsn.

A missing row cannot be locked, and a transaction with a smaller outbox id may be inserting the row. Therefore the place
of the row is locked. SQLite has one writer at a time, and the locking reads of MariaDB and MySQL lock gaps. On
PostgreSQL the whole table is locked against writers. The table lock comes before any row lock, because two of these
transactions could deadlock otherwise.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection, Engine

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.line_writer import line_start
from rowcast.producer.outbox.schema import OutboxTables
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.images.published_rows import row_filter, stored_images
from rowcast.shared.tables.shape import TableShape

_KEYS_PER_ROW = 100
"""The greatest number of keys of a look-up and of an outbox row, because their images are in memory at once."""

_LOCK_TIMEOUT_S = 10

Keys = dict[bytes, None]
"""Primary keys in the contract's encodings, as compact JSON."""

SettingsOf = Callable[[TableShape], TableSettings]


class GoneError(Exception):
    """Report a missing row whose place is not locked."""


@contextmanager
def row_transaction(engine: Engine) -> Iterator[Connection]:
    """Open a transaction in which ``write_current_rows`` can read and lock rows. Locks are awaited for 10 s."""
    dialect = capture_dialect(engine.dialect)
    with engine.connect() as connection:
        if dialect.retry_isolation is not None:
            connection = connection.execution_options(isolation_level=dialect.retry_isolation)
        with connection.begin():
            dialect.ensure_functions(connection)
            dialect.prepare_row_reader(connection)
            dialect.limit_lock_wait(connection, _LOCK_TIMEOUT_S)
            yield connection


def write_current_rows(
    connection: Connection,
    tables: OutboxTables,
    settings_of: SettingsOf,
    rows: Sequence[tuple[TableShape, Keys]],
    *,
    whole_tables: bool,
) -> RowCounts:
    """Write a line for each key: the present row, or the delete.

    ``rows``: at least one key. ``settings_of`` returns the settings of a table, with the salts of hashes.
    ``whole_tables``: lock the tables against writers. Raises GoneError if a row is missing and nothing locks its place:
    roll back, and try again with ``whole_tables`` in a new transaction.
    """
    if whole_tables:
        for shape in {shape.full_name: shape for shape, _ in rows}.values():
            _lock_table(connection, shape)
    counts = RowCounts()
    parts = (
        part
        for shape, keys in rows
        for part in _CurrentRows(connection, shape, settings_of, whole_tables, counts).lines(keys)
    )
    _write_outbox(connection, tables, parts)
    return counts


class RowCounts:
    """The number of written rows that exist, and of deletes."""

    def __init__(self) -> None:
        self.rows = 0
        self.deletes = 0


def _lock_table(connection: Connection, shape: TableShape) -> None:
    schema = None if shape.default_schema else shape.schema
    name = connection.dialect.identifier_preparer.format_table(sa.table(shape.name, schema=schema))
    capture_dialect(connection.dialect).lock_table(connection, name)


def _write_outbox(connection: Connection, tables: OutboxTables, parts: Iterator[str]) -> None:
    """Write an outbox row for each part, all as one transaction."""
    row = {"tx": uuid.uuid4().hex, "complete": False}
    insert = sa.insert(tables.outbox).values(ts_ms=capture_dialect(connection.dialect).now_ms())
    last = next(parts)
    for part in parts:
        connection.execute(insert, {**row, "changes": last})
        last = part
    connection.execute(insert, {**row, "complete": True, "changes": last})


class _CurrentRows:
    """Read rows of one table by key, and lock them until the transaction ends."""

    def __init__(
        self, connection: Connection, shape: TableShape, settings_of: SettingsOf, whole_table: bool, counts: RowCounts
    ) -> None:
        self._connection = connection
        self._shape = shape
        self._whole_table = whole_table
        self._counts = counts
        self._dialect = capture_dialect(connection.dialect)
        self._columns: dict[str, ColumnElement[Any]] = {name: sa.column(name) for name in shape.primary_key}
        table, key, image = stored_images(shape, settings_of(shape))
        self._rows = sa.select(key, image).select_from(table).where(row_filter(shape))
        if not whole_table and self._dialect.has_row_locks:
            self._rows = self._rows.with_for_update()

    def lines(self, keys: Keys) -> Iterator[str]:
        """Yield the outbox lines of the keys, for up to 100 keys at a time."""
        left = iter(keys)
        while some := list(islice(left, _KEYS_PER_ROW)):
            found = self._found(some)
            gone = [key for key in some if key not in found]
            if gone and not self._whole_table and not self._dialect.locks_missing_rows:
                raise GoneError
            self._counts.deletes += len(gone)
            self._counts.rows += len(some) - len(gone)
            yield "".join(self._line(key, found.get(key)) for key in some)

    def _line(self, key: bytes, row: tuple[str, str] | None) -> str:
        if row is None:
            return f"{line_start(self._shape, 'd')}{key.decode()}}}\n"
        return f'{line_start(self._shape, "u")}{row[0]},"a":{row[1]}}}\n'

    def _found(self, keys: Sequence[bytes]) -> dict[bytes, tuple[str, str]]:
        """Return key and image of the existing rows, by the compact form of the key."""
        wanted = set(keys)
        found = self._matching(self._rows.where(sa.or_(*map(self._has_key, keys))), wanted)
        types = {self._shape.column(name).type.name for name in self._shape.primary_key}
        if len(found) < len(wanted) and not types <= self._dialect.types_found_by_event_value:
            # The values may be stored in another form than events have. Then read all rows of the table.
            found |= self._matching(self._rows, wanted - found.keys())
        return found

    def _matching(self, rows: sa.Executable, wanted: set[bytes]) -> dict[bytes, tuple[str, str]]:
        found = {}
        with self._connection.execute(rows, execution_options={"stream_results": True, "max_row_buffer": 100}) as each:
            for key, image in each:
                # A collation may find other keys, and each engine writes different white space.
                if (compact := orjson.dumps(orjson.loads(key))) in wanted:
                    found[compact] = key, image
        return found

    def _has_key(self, key: bytes) -> ColumnElement[bool]:
        values = orjson.loads(key)
        return sa.and_(*(self._has_value(name, column, values[name]) for name, column in self._columns.items()))

    def _has_value(self, name: str, column: ColumnElement[Any], value: Any) -> ColumnElement[bool]:
        forms = [value]
        match self._shape.column(name).type.name:
            case "bytes":
                forms = [base64.b64decode(value)]
            case "uuid":
                # SQLAlchemy stores a uuid without hyphens on engines without the type.
                forms = [value, value.replace("-", "")]
        # Values without a type take the type of the column.
        return column.in_([sa.bindparam(None, form, type_=sa.types.NullType()) for form in forms])
