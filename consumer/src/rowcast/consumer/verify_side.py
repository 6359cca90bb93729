"""One of the two databases that verify compares, table by table, as row images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.definitions import replica_name
from rowcast.consumer.dialects import ReplicaDialect, ReplicaTable, quoted_name, replica_dialect
from rowcast.consumer.layouts import Layout
from rowcast.shared.config import DatabaseSettings
from rowcast.shared.databases import open_engine, reach, unreachable
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.images import RowImage
from rowcast.shared.leaving import leaving_rows, leaving_value
from rowcast.shared.shapes import ColumnShape, PortableType, TableShape
from rowcast.shared.table_settings import TableSettings
from rowcast.shared.types import engine_family, portable_type, replica_type

CHUNK_ROWS = 1_000
# Keys of several columns are looked up by an OR of so many: SQLite takes no expression deeper than 1,000.
_PAIRED_KEYS = 250


class Side:
    """A database, open for reading. ``what`` names it in messages."""

    def __init__(self, settings: DatabaseSettings, what: str) -> None:
        """Raises UnreachableError, ConfigurationError."""
        self.what = what
        self.engine: Engine = open_engine(settings.sqlalchemy_url, what)
        self.dialect: ReplicaDialect = replica_dialect(self.engine.dialect.name)
        self.dialect.configure_reader(self.engine)
        reach(self.engine, what)

    @property
    def family(self) -> str:
        return engine_family(self.engine.dialect.name)

    def close(self) -> None:
        self.engine.dispose()


class SideTable:
    """One table of a side. On the replica, values are stored as its own engine does; their images are of that. Of the
    primary what leaves it is seen: the rows that the shape's condition lets go, masked columns as they were masked.

    ``settings`` know the primary's salts. Raises ConfigurationError if one is missing, or a column.
    """

    def __init__(self, side: Side, shape: TableShape, *, replica: bool, settings: TableSettings) -> None:
        self._side = side
        self._shape = shape
        self._replica = replica
        self._layout = Layout(shape, tuple(c.name for c in shape.columns))
        if replica:
            schema, name = replica_name(shape.schema, shape.name, shape.default_schema, side.dialect)
        else:
            schema, name = (None if shape.default_schema else shape.schema), shape.name
        with self._reading() as connection:
            columns = side.dialect.stored_columns(connection, schema, name)
            self._table = ReplicaTable(
                schema, name, quoted_name(connection, schema, name), columns, shape.primary_key, False
            )
        missing = self._layout.names - columns.keys()
        if columns and missing:
            raise ConfigurationError(
                f"table {shape.full_name} has no column {', '.join(sorted(missing))} in the {side.what} database"
            )
        self.exists = bool(columns)
        self._from = sa.table(name, *(sa.column(c.name) for c in shape.columns), schema=schema)
        self._values: dict[str, ColumnElement[Any]] = {c.name: self._value(c, settings) for c in shape.columns}
        self._leaving: ColumnElement[bool] = sa.true() if replica else leaving_rows(shape)

    def rows(self) -> Iterator[list[tuple[str, str]]]:
        """(key, image) of every row, in chunks, as of one moment."""
        yield from self._scan(self._image(self._shape.primary_key), self._image(self._layout.columns))

    def row_keys(self) -> Iterator[list[tuple[str, str]]]:
        """(key, key) of every row, in chunks, as of one moment."""
        yield from self._scan(self._image(self._shape.primary_key), self._image(self._shape.primary_key))

    def find(self, keys: Sequence[dict[str, Any]], *, only_keys: bool = False) -> list[tuple[str, str]]:
        """(key, image) of those rows that are there."""
        if not self.exists:
            return []
        size = CHUNK_ROWS if len(self._shape.primary_key) == 1 else _PAIRED_KEYS
        chunks = (keys[start : start + size] for start in range(0, len(keys), size))
        return [pair for chunk in chunks for pair in self._find(chunk, only_keys)]

    def _find(self, keys: Sequence[dict[str, Any]], only_keys: bool) -> list[tuple[str, str]]:
        columns = [self._from.c[name] for name in self._shape.primary_key]
        documents = [orjson.dumps(key) for key in keys]
        values = list(self._side.dialect.key_values(self._table, self._layout, documents))
        if len(columns) == 1:
            which: sa.ColumnElement[bool] = columns[0].in_([_untyped(row[0]) for row in values])
        else:
            equal = ([c == _untyped(v) for c, v in zip(columns, row, strict=True)] for row in values)
            which = sa.or_(*(sa.and_(*pairs) for pairs in equal))
        image = self._image(self._shape.primary_key if only_keys else self._layout.columns)
        with self._reading() as connection:
            query = sa.select(self._image(self._shape.primary_key), image).where(which, self._leaving)
            found = connection.execute(query)
            return [_pair(row) for row in found]

    def _scan(self, *images: RowImage) -> Iterator[list[tuple[str, str]]]:
        if not self.exists:
            return
        with self._reading() as connection:
            streaming = connection.execution_options(stream_results=True, yield_per=CHUNK_ROWS)
            query = sa.select(*images).select_from(self._from).where(self._leaving)
            for chunk in streaming.execute(query).partitions():
                yield [_pair(row) for row in chunk]

    def _image(self, names: Sequence[str]) -> RowImage:
        return RowImage([(name, self._values[name], self._stored(name)) for name in names])

    def _value(self, column: ColumnShape, settings: TableSettings) -> ColumnElement[Any]:
        stored = self._from.c[column.name]
        return stored if self._replica else leaving_value(self._shape, column, stored, settings)

    def _stored(self, name: str) -> PortableType:
        """The type whose image is what this side's engine stores for it."""
        type_ = self._shape.column(name).type
        dialect = self._side.engine.dialect
        if not self._replica or self._side.family == engine_family(self._shape.engine):
            return type_
        return portable_type(replica_type(type_, self._shape.engine, dialect), dialect)

    def _reading(self) -> Any:
        return _Reading(self._side)


class _Reading:
    """A connection whose errors are told in the side's name."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def __enter__(self) -> Connection:
        try:
            self._connection = self._side.engine.connect()
        except exc.DBAPIError as error:
            raise unreachable(self._side.engine, self._side.what, error) from error
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._connection.close()
        if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
            raise unreachable(self._side.engine, self._side.what, error) from error


def _pair(row: Any) -> tuple[str, str]:
    return row[0], row[1]


def _untyped(value: Any) -> sa.BindParameter[Any]:
    """Without the cast that SQLAlchemy would write for a value's own type: it takes the column's."""
    return sa.bindparam(None, value, type_=sa.types.NullType())
