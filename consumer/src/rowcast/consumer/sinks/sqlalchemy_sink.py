"""A sink for every database with a dialect of SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.schema import CreateColumn

from rowcast.consumer.sinks.sink import RowChange, SinkBatch
from rowcast.shared.database.driver_errors import ServerFault, server_fault
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.errors import ConfigurationError, RetriableError
from rowcast.shared.tables.shape import PortableType, TableShape

_ROWS_PER_DELETE = 500
_TRANSIENT = (ServerFault.LOST, ServerFault.CONTENDED, ServerFault.UNAVAILABLE, ServerFault.READ_ONLY)

# Types of every dialect. A decimal without digits is a text, because a dialect's default would round it.
_TYPES: Mapping[str, sa.types.TypeEngine[Any]] = {
    "boolean": sa.Boolean(),
    "int16": sa.SmallInteger(),
    "int32": sa.Integer(),
    "int64": sa.BigInteger(),
    "uint64": sa.Numeric(20),
    "float32": sa.Double(),
    "float64": sa.Double(),
    "bytes": sa.LargeBinary(),
    "date": sa.Date(),
    "time": sa.Time(),
    "timestamp": sa.DateTime(),
    "timestamptz": sa.DateTime(timezone=True),
    "uuid": sa.Uuid(),
    "json": sa.JSON(),
    "array": sa.JSON(),
}


def _type(portable: PortableType, *, is_key: bool) -> sa.types.TypeEngine[Any]:
    if portable.name == "decimal" and portable.precision is not None:
        return sa.Numeric(portable.precision, portable.scale or 0)
    if portable.name in _TYPES:
        return _TYPES[portable.name]
    # Many databases have no key of an unbounded text.
    return sa.String(portable.length or 255) if is_key or portable.length else sa.Text()


class SqlAlchemySink:
    """Write the rows to tables with the names of the source, and the checkpoint, in one transaction.

    ``engine``: of any dialect. ``schema``: of all tables, or None for the default schema. ``primary_keys``: False for a
    database that refuses to delete and insert a key in one transaction, for example DuckDB. The tables have no foreign
    keys and no indexes. A new column of the source is added, and a dropped column stays.

    rowcast's own replicas (PostgreSQL, MySQL, MariaDB, SQLite) are faster, and keep types, keys and constraints.
    """

    def __init__(self, engine: Engine, *, schema: str | None = None, primary_keys: bool = True) -> None:
        self._engine = engine
        self._primary_keys = primary_keys
        self._metadata = sa.MetaData(schema=schema)
        self._tables: dict[str, sa.Table] = {}
        self._checkpoints = sa.Table("rowcast_checkpoint", self._metadata, sa.Column("checkpoint", sa.Text))
        self._checkpoints.create(engine, checkfirst=True)

    def checkpoint(self) -> bytes | None:
        """Return the checkpoint of the last batch, or None."""
        with self._engine.connect() as connection:
            stored: str | None = connection.execute(sa.select(self._checkpoints.c.checkpoint)).scalar()
        return None if stored is None else stored.encode()

    def prepare(self, shapes: Iterable[TableShape]) -> None:
        """Create missing tables, and add missing columns."""
        with self._translated_errors(), self._engine.begin() as connection:
            for shape in shapes:
                self._prepare(connection, shape)

    def _prepare(self, connection: Connection, shape: TableShape) -> None:
        name = shape.name if shape.default_schema else f"{shape.schema}_{shape.name}"
        known = self._metadata.tables.get(name if self._metadata.schema is None else f"{self._metadata.schema}.{name}")
        if known is not None:
            self._metadata.remove(known)
        key = shape.primary_key
        columns = [
            sa.Column(c.name, _type(c.type, is_key=c.name in key), nullable=c.name not in key, autoincrement=False)
            for c in shape.columns
        ]
        keys = [sa.PrimaryKeyConstraint(*key)] if self._primary_keys else []
        table = self._tables[shape.full_name] = sa.Table(name, self._metadata, *columns, *keys, info={"key": key})
        if not sa.inspect(connection).has_table(name, schema=self._metadata.schema):
            table.create(connection)
            return
        # Reflection reads catalogues missing in some dialects.
        query: sa.Select[Any] = sa.select(sa.literal_column("*")).select_from(table).where(sa.false())
        existing = set(connection.execute(query).keys())
        for column in table.columns:
            if column.name not in existing:
                new = sa.Column(column.name, column.type)
                ddl = CreateColumn(new).compile(dialect=connection.dialect)
                quoted = connection.dialect.identifier_preparer.format_table(table)
                connection.exec_driver_sql(f"ALTER TABLE {quoted} ADD COLUMN {ddl}")

    def apply(self, batch: SinkBatch) -> None:
        """Write the last state of each row, and the checkpoint."""
        with self._translated_errors(), self._engine.begin() as connection:
            for table, rows in self._last_states(batch.changes()).items():
                self._write(connection, self._tables[table], rows)
            connection.execute(sa.delete(self._checkpoints))
            connection.execute(sa.insert(self._checkpoints).values(checkpoint=batch.checkpoint.decode()))

    @staticmethod
    def _last_states(changes: Iterable[RowChange]) -> dict[str, dict[tuple[Any, ...], RowChange]]:
        """Return the last change of each key, by table. A truncate has the empty key, and comes first."""
        last: dict[str, dict[tuple[Any, ...], RowChange]] = {}
        for change in changes:
            rows = last.setdefault(change.table, {})
            if change.truncates:
                rows.clear()
            rows[tuple(change.key.values())] = change
        return last

    def _write(self, connection: Connection, table: sa.Table, rows: dict[tuple[Any, ...], RowChange]) -> None:
        if rows.pop((), None) is not None:
            connection.execute(sa.delete(table))
        keys = [table.c[name] for name in table.info["key"]]
        for condition in _any_key(keys, list(rows)):
            connection.execute(sa.delete(table).where(condition))
        written = [change.row for change in rows.values() if change.row is not None]
        if written:
            names = [column.name for column in table.columns]
            connection.execute(
                sa.insert(table), [{name: _stored(row.get(name), table.c[name]) for name in names} for row in written]
            )

    def _translated_errors(self) -> _TranslatedErrors:
        return _TranslatedErrors(str(self._engine.url.set(password=None)))


def _stored(value: Any, column: sa.Column[Any]) -> Any:
    """Return the value for a column. A text column takes each value as a text."""
    if value is None or not isinstance(column.type, sa.String) or isinstance(value, str):
        return value
    return str(value)


def _any_key(columns: Sequence[sa.Column[Any]], keys: Sequence[tuple[Any, ...]]) -> Iterator[sa.ColumnElement[bool]]:
    """Yield conditions that hold for the rows of the keys, for a limited number of keys each."""
    for start in range(0, len(keys), _ROWS_PER_DELETE):
        some = keys[start : start + _ROWS_PER_DELETE]
        if len(columns) == 1:
            yield columns[0].in_([_stored(key, columns[0]) for (key,) in some])
        else:
            yield sa.or_(
                *(sa.and_(*(c == _stored(value, c) for c, value in zip(columns, key, strict=True))) for key in some)
            )


class _TranslatedErrors:
    """Turn errors of a driver into RetriableError or ConfigurationError."""

    def __init__(self, label: str) -> None:
        self._label = label

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, exc.DBAPIError):
            return
        reason = f"the sink {self._label} did not take a batch: {first_line(error)}"
        if error.connection_invalidated or server_fault(error) in _TRANSIENT:
            raise RetriableError(reason) from error
        raise ConfigurationError(f"{reason}. Correct the table or the value, and start again.") from error
