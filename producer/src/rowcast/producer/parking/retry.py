"""Write the current rows of a parked transaction to the outbox.

The images of the parked transaction may be older than events published since. Therefore the rows are read again, as
by the drain: the rows are locked, and the outbox id is assigned under the locks.

A row that is gone cannot be locked, and a transaction with a smaller outbox id may be inserting it at this moment.
Therefore the place of the row is locked. SQLite has one writer at a time, and the locking reads of MariaDB and MySQL
lock gaps. On PostgreSQL the whole table is locked against writers. The table lock comes before any row lock, because
two retries could deadlock otherwise.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import Connection, Engine

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.producer.outbox.line_writer import line_start
from rowcast.producer.outbox.schema import OutboxTables
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.database.driver_errors import is_transient
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.errors import DataError, RetriableError
from rowcast.shared.images.published_rows import row_filter, stored_images
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_store import newest_shape

if TYPE_CHECKING:
    from rowcast.producer.outbox.parked_rows import ParkedRow

_KEYS_PER_ROW = 100
"""The greatest number of keys of a look-up and of an outbox row, because their images are in memory at once."""

_LOCK_TIMEOUT_S = 10

Keys = dict[bytes, None]
SettingsOf = Callable[[TableShape], TableSettings]


class _GoneError(Exception):
    """Report a missing row whose place is not locked."""


def retry_parked(
    engine: Engine, tables: OutboxTables, settings_of: SettingsOf, tx: str, parked: Sequence[ParkedRow]
) -> int:
    """Retry a parked transaction in one transaction of the database. Return the number of rows.

    ``settings_of`` returns the settings of a table, with the salts of hashes. Raises DataError if a row cannot be named
    or read, and RetriableError if a row stays locked or if the transaction is no longer parked.
    """
    keys = _keys(parked)
    try:
        try:
            _write(engine, tables, settings_of, tx, len(parked), keys, whole_tables=False)
        except _GoneError:
            _write(engine, tables, settings_of, tx, len(parked), keys, whole_tables=True)
    except exc.DBAPIError as error:
        reason = first_line(error)
        if is_transient(error):
            raise RetriableError(f"the rows of transaction {tx} cannot be locked now: {reason}. Try again.") from error
        raise DataError(f"the rows of transaction {tx} cannot be read: {reason}. {_OTHERWISE}") from error
    return sum(map(len, keys.values()))


_OTHERWISE = "Take a snapshot of its tables (rowcast snapshot TABLE --where …), then drop it"


def _keys(parked: Sequence[ParkedRow]) -> dict[str, Keys]:
    """Return the changed keys of each table, in the order of their first change. Raises DataError."""
    splitter = ChangeSplitter()
    keys: dict[str, Keys] = {}
    for row in parked:
        try:
            for head, key, *_ in splitter.split(row.changes):
                keys.setdefault(head.table, {})[key] = None
        except (DataError, AttributeError) as error:
            raise DataError(f"row {row.id} of rowcast_parked: {error}. Repair the row. Or: {_OTHERWISE}") from error
    return keys


def _write(
    engine: Engine, tables: OutboxTables, settings_of: SettingsOf, tx: str, rows: int, keys: Mapping[str, Keys],
    *, whole_tables: bool,
) -> None:  # fmt: skip
    dialect = capture_dialect(engine.dialect)
    with engine.connect() as connection:
        if dialect.retry_isolation is not None:
            connection = connection.execution_options(isolation_level=dialect.retry_isolation)
        with connection.begin():
            dialect.ensure_functions(connection)
            dialect.prepare_row_reader(connection)
            dialect.limit_lock_wait(connection, _LOCK_TIMEOUT_S)
            parked = tables.parked
            if connection.execute(sa.delete(parked).where(parked.c.tx == tx)).rowcount != rows:
                raise RetriableError(f"transaction {tx} is being retried or dropped by another process. Try again.")
            shapes = {name: _shape(connection, tables, name, of_table) for name, of_table in keys.items()}
            if whole_tables:
                for shape in shapes.values():
                    _lock_table(connection, shape)
            lines = (
                part
                for name, of_table in keys.items()
                for part in _CurrentRows(connection, shapes[name], settings_of, whole_tables).lines(of_table)
            )
            _write_outbox(connection, tables, lines)


def _shape(connection: Connection, tables: OutboxTables, name: str, keys: Keys) -> TableShape:
    shape = newest_shape(connection, name)
    if shape is None:
        raise DataError(f"rowcast_shape does not know the table {name}. {_OTHERWISE}")
    for key in keys:
        columns = tuple(orjson.loads(key))
        if set(columns) != set(shape.primary_key):
            raise DataError(
                f"the primary key of {name} was {', '.join(columns)}, and is {', '.join(shape.primary_key)} now. "
                f"{_OTHERWISE}"
            )
    return shape


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

    def __init__(self, connection: Connection, shape: TableShape, settings_of: SettingsOf, whole_table: bool) -> None:
        self._connection = connection
        self._shape = shape
        self._whole_table = whole_table
        self._dialect = capture_dialect(connection.dialect)
        self._columns: dict[str, ColumnElement[Any]] = {name: sa.column(name) for name in shape.primary_key}
        table, key, image = stored_images(shape, settings_of(shape))
        self._rows = sa.select(key, image).select_from(table).where(row_filter(shape))
        if not whole_table and self._dialect.has_row_locks:
            self._rows = self._rows.with_for_update()

    def lines(self, keys: Keys) -> Iterator[str]:
        """Yield the outbox lines of these keys, for up to 100 keys at a time."""
        left = iter(keys)
        while some := list(islice(left, _KEYS_PER_ROW)):
            found = self._found(some)
            gone = [key for key in some if key not in found]
            if gone and not self._whole_table and not self._dialect.locks_missing_rows:
                raise _GoneError
            yield "".join(self._line(key, found.get(key)) for key in some)

    def _line(self, key: bytes, row: tuple[str, str] | None) -> str:
        if row is None:
            return f"{line_start(self._shape, 'd')}{key.decode()}}}\n"
        return f'{line_start(self._shape, "u")}{row[0]},"a":{row[1]}}}\n'

    def _found(self, keys: Sequence[bytes]) -> dict[bytes, tuple[str, str]]:
        """Return key and image of the rows that exist, by the compact form of the key."""
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
                # A collation may find other keys, and each engine writes other white space.
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
