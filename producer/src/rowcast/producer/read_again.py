"""Rows that a parked transaction changed, written to the outbox as they are now.

Its own images may be older than what was published since. So the rows are read again, as the drain does: while their
locks are held, and the outbox id is drawn under them. A row that is gone has no lock to hold, and may be coming back at
this moment, in a transaction that has drawn a smaller id: there its place is locked. SQLite has one writer at a time,
MariaDB's locking reads lock gaps, PostgreSQL locks the table against writers, before any row, or the two might wait
for each other.
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

from rowcast.producer.clock import now_ms
from rowcast.producer.outbox import OutboxTables
from rowcast.producer.outbox_lines import line_start
from rowcast.producer.relay.blocks import ChangeSplitter
from rowcast.producer.relay.passing import is_passing
from rowcast.producer.snapshots import Snapshots
from rowcast.producer.sqlite_functions import ensure_functions
from rowcast.shared.errors import DataError, RetriableError
from rowcast.shared.leaving import leaving_rows, stored_images
from rowcast.shared.shapes import TableShape
from rowcast.shared.table_settings import TableSettings

if TYPE_CHECKING:
    from rowcast.producer.parked import ParkedRow

_KEYS = 100
"""Of a look-up, and of an outbox row: their images are in memory at once."""

_PATIENCE_S = 10

_PLAIN = frozenset(("int16", "int32", "int64", "uint64", "string", "text"))
"""Types of whose values the event's own form finds the row, if it is there."""

Keys = dict[bytes, None]
SettingsOf = Callable[[TableShape], TableSettings]


class _GoneError(Exception):
    """A row is gone, and its place is not locked."""


def read_again(
    engine: Engine, tables: OutboxTables, settings_of: SettingsOf, tx: str, parked: Sequence[ParkedRow]
) -> int:
    """In one transaction of the database; returns the number of rows. ``settings_of`` knows the salts of hashes.

    Raises DataError if a row cannot be told or read, RetriableError if it is locked for long, or no longer parked.
    """
    keys = _keys(parked)
    try:
        try:
            _write(engine, tables, settings_of, tx, len(parked), keys, whole_tables=False)
        except _GoneError:
            _write(engine, tables, settings_of, tx, len(parked), keys, whole_tables=True)
    except exc.DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        if is_passing(error):
            raise RetriableError(f"the rows of transaction {tx} cannot be locked now: {reason}. Try again.") from error
        raise DataError(f"the rows of transaction {tx} cannot be read again: {reason}. {_OTHERWISE}") from error
    return sum(map(len, keys.values()))


_OTHERWISE = "Take a snapshot of its tables (rowcast snapshot TABLE --where …), and drop it"


def _keys(parked: Sequence[ParkedRow]) -> dict[str, Keys]:
    """By table, in the order of their first change. Raises DataError."""
    splitter = ChangeSplitter()
    keys: dict[str, Keys] = {}
    for row in parked:
        try:
            for head, key, *_ in splitter.split(row.changes):
                keys.setdefault(head.table, {})[key] = None
        except (DataError, AttributeError) as error:
            raise DataError(f"row {row.id} of rowcast_parked: {error}. Mend the row. Or else: {_OTHERWISE}") from error
    return keys


def _write(
    engine: Engine, tables: OutboxTables, settings_of: SettingsOf, tx: str, rows: int, keys: Mapping[str, Keys],
    *, whole_tables: bool,
) -> None:  # fmt: skip
    isolation = {"mysql": "REPEATABLE READ", "mariadb": "REPEATABLE READ", "postgresql": "READ COMMITTED"}
    with engine.connect() as connection:
        if engine.dialect.name in isolation:
            connection = connection.execution_options(isolation_level=isolation[engine.dialect.name])
        with connection.begin():
            ensure_functions(connection)
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_PATIENCE_S}s'")
            parked = tables.parked
            if connection.execute(sa.delete(parked).where(parked.c.tx == tx)).rowcount != rows:
                raise RetriableError(f"transaction {tx} is being retried, or dropped, by somebody else.")
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
    shape = Snapshots(tables).newest_shape(connection, name)
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
    connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE MODE")


def _write_outbox(connection: Connection, tables: OutboxTables, parts: Iterator[str]) -> None:
    """Each part is an outbox row."""
    row = {"tx": uuid.uuid4().hex, "complete": False}
    insert = sa.insert(tables.outbox).values(ts_ms=now_ms(connection.dialect))
    last = next(parts)
    for part in parts:
        connection.execute(insert, {**row, "changes": last})
        last = part
    connection.execute(insert, {**row, "complete": True, "changes": last})


class _CurrentRows:
    """One table's rows, read and locked by key; they are nobody else's until the transaction ends."""

    def __init__(self, connection: Connection, shape: TableShape, settings_of: SettingsOf, whole_table: bool) -> None:
        self._connection = connection
        self._shape = shape
        self._whole_table = whole_table
        self._plain = _PLAIN if connection.dialect.name == "sqlite" else _PLAIN | {"uuid"}
        self._columns: dict[str, ColumnElement[Any]] = {name: sa.column(name) for name in shape.primary_key}
        table, key, image = stored_images(shape, settings_of(shape))
        self._rows = sa.select(key, image).select_from(table).where(leaving_rows(shape))
        if not whole_table and connection.dialect.name != "sqlite":
            self._rows = self._rows.with_for_update()

    def lines(self, keys: Keys) -> Iterator[str]:
        """The outbox lines of these keys, some at a time."""
        left = iter(keys)
        while some := list(islice(left, _KEYS)):
            found = self._found(some)
            gone = [key for key in some if key not in found]
            if gone and not self._whole_table and self._connection.dialect.name == "postgresql":
                raise _GoneError
            yield "".join(self._line(key, found.get(key)) for key in some)

    def _line(self, key: bytes, row: tuple[str, str] | None) -> str:
        if row is None:
            return f"{line_start(self._shape, 'd')}{key.decode()}}}\n"
        return f'{line_start(self._shape, "u")}{row[0]},"a":{row[1]}}}\n'

    def _found(self, keys: Sequence[bytes]) -> dict[bytes, tuple[str, str]]:
        """Key and image of those that are there, by the key's compact form."""
        wanted = set(keys)
        found = self._matching(self._rows.where(sa.or_(*map(self._is, keys))), wanted)
        types = {self._shape.column(name).type.name for name in self._shape.primary_key}
        if len(found) < len(wanted) and not types <= self._plain:
            # They may be stored in another form than events have them in: then all there are tell.
            found |= self._matching(self._rows, wanted - found.keys())
        return found

    def _matching(self, rows: sa.Executable, wanted: set[bytes]) -> dict[bytes, tuple[str, str]]:
        found = {}
        with self._connection.execute(rows, execution_options={"stream_results": True, "max_row_buffer": 100}) as each:
            for key, image in each:
                # Collations liken what is not the same; engines have white space of their own.
                if (compact := orjson.dumps(orjson.loads(key))) in wanted:
                    found[compact] = key, image
        return found

    def _is(self, key: bytes) -> ColumnElement[bool]:
        values = orjson.loads(key)
        return sa.and_(*(self._holds(name, column, values[name]) for name, column in self._columns.items()))

    def _holds(self, name: str, column: ColumnElement[Any], value: Any) -> ColumnElement[bool]:
        forms = [value]
        match self._shape.column(name).type.name:
            case "bytes":
                forms = [base64.b64decode(value)]
            case "uuid":
                # SQLAlchemy's own, where the engine has none, is stored without hyphens.
                forms = [value, value.replace("-", "")]
        # Without types of their own the values take the column's.
        return column.in_([sa.bindparam(None, form, type_=sa.types.NullType()) for form in forms])
