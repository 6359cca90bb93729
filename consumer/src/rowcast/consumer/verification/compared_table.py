"""A table of the primary or of the replica, as comparable row images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects import (
    LIVE,
    ReplicaDialect,
    ReplicaTable,
    TableNaming,
    quoted_name,
    replica_dialect,
)
from rowcast.consumer.replica.table_definitions import replica_name
from rowcast.shared.config.settings import DatabaseSettings
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.database.engines import open_engine, reach, unreachable
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.images import RowImage
from rowcast.shared.images.published_rows import published_value, row_filter
from rowcast.shared.tables.shape import ColumnShape, PortableType, TableShape
from rowcast.shared.tables.type_mapping import portable_type, replica_type

CHUNK_ROWS = 1_000
# Keys of several columns are found by an OR of conditions. SQLite refuses expressions deeper than 1,000.
_COMPOSITE_KEYS_PER_QUERY = 250


class ComparedDatabase:
    """The primary or the replica, open for reading. ``label`` names the database in messages."""

    def __init__(self, settings: DatabaseSettings, label: str, naming: TableNaming = LIVE) -> None:
        """Connect once. Raise UnreachableError and ConfigurationError."""
        self.label = label
        self.engine: Engine = open_engine(settings.sqlalchemy_url, label)
        self.dialect: ReplicaDialect = replica_dialect(self.engine.dialect.name, naming)
        self.dialect.configure_reader(self.engine)
        reach(self.engine, label)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a connection for the block. Raise UnreachableError if the database goes away."""
        try:
            connection = self.engine.connect()
        except exc.DBAPIError as error:
            raise unreachable(self.engine, self.label, error) from error
        try:
            yield connection
        except exc.DBAPIError as error:
            if error.connection_invalidated:
                raise unreachable(self.engine, self.label, error) from error
            raise
        finally:
            connection.close()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


class ComparedTable:
    """One table, as row images.

    On the primary, the images are of the published rows and values: the rows that pass the row filter, and masked
    columns as masked. On the replica, the images are of the values as the replica's own engine stores them.

    ``settings`` hold the primary's salts. Raise ConfigurationError if a salt or a column is missing.
    """

    def __init__(
        self, database: ComparedDatabase, shape: TableShape, *, is_replica: bool, settings: TableSettings
    ) -> None:
        self._database = database
        self._shape = shape
        self._is_replica = is_replica
        self._layout = RowLayout(shape, tuple(c.name for c in shape.columns))
        if is_replica:
            schema, name = replica_name(shape.schema, shape.name, shape.default_schema, database.dialect)
        else:
            schema, name = (None if shape.default_schema else shape.schema), shape.name
        with database.connect() as connection:
            columns = database.dialect.read_columns(connection, schema, name)
            self._table = ReplicaTable(
                schema, name, quoted_name(connection, schema, name), columns, shape.primary_key, other_unique=False
            )
        missing = self._layout.names - columns.keys()
        if columns and missing:
            raise ConfigurationError(
                f"table {shape.full_name} has no column {', '.join(sorted(missing))} in the {database.label} database. "
                "Add the column there."
            )
        self.exists = bool(columns)
        self._from = sa.table(name, *(sa.column(c.name) for c in shape.columns), schema=schema)
        self._values: dict[str, ColumnElement[Any]] = {c.name: self._value(c, settings) for c in shape.columns}
        self._filter: ColumnElement[bool] = sa.true() if is_replica else row_filter(shape)

    def rows(self) -> Iterator[list[tuple[str, str]]]:
        """Return (key, image) of every row, in chunks, as of one moment."""
        yield from self._scan(self._image(self._shape.primary_key), self._image(self._layout.columns))

    def row_keys(self) -> Iterator[list[tuple[str, str]]]:
        """Return (key, key) of every row, in chunks, as of one moment."""
        yield from self._scan(self._image(self._shape.primary_key), self._image(self._shape.primary_key))

    def find(self, keys: Sequence[dict[str, Any]], *, only_keys: bool = False) -> list[tuple[str, str]]:
        """Return (key, image) of the existing rows with these keys. ``only_keys``: return (key, key)."""
        if not self.exists:
            return []
        size = CHUNK_ROWS if len(self._shape.primary_key) == 1 else _COMPOSITE_KEYS_PER_QUERY
        found: list[tuple[str, str]] = []
        for start in range(0, len(keys), size):
            found += self._find_chunk(keys[start : start + size], only_keys)
        return found

    def _find_chunk(self, keys: Sequence[dict[str, Any]], only_keys: bool) -> list[tuple[str, str]]:
        image = self._image(self._shape.primary_key if only_keys else self._layout.columns)
        query = sa.select(self._image(self._shape.primary_key), image).where(self._has_key(keys), self._filter)
        with self._database.connect() as connection:
            return [_pair(row) for row in connection.execute(query)]

    def _has_key(self, keys: Sequence[dict[str, Any]]) -> ColumnElement[bool]:
        """Return the condition for the rows with these keys."""
        columns = [self._from.c[name] for name in self._shape.primary_key]
        documents = [orjson.dumps(key) for key in keys]
        values = self._database.dialect.key_values(self._table, self._layout, documents)
        if len(columns) == 1:
            return columns[0].in_([_untyped(row[0]) for row in values])
        conditions = []
        for row in values:
            conditions.append(sa.and_(*(c == _untyped(v) for c, v in zip(columns, row, strict=True))))
        return sa.or_(*conditions)

    def _scan(self, *images: RowImage) -> Iterator[list[tuple[str, str]]]:
        if not self.exists:
            return
        with self._database.connect() as connection:
            streaming = connection.execution_options(stream_results=True, yield_per=CHUNK_ROWS)
            query = sa.select(*images).select_from(self._from).where(self._filter)
            for chunk in streaming.execute(query).partitions():
                yield [_pair(row) for row in chunk]

    def _image(self, names: Sequence[str]) -> RowImage:
        return RowImage([(name, self._values[name], self._image_type(name)) for name in names])

    def _value(self, column: ColumnShape, settings: TableSettings) -> ColumnElement[Any]:
        stored = self._from.c[column.name]
        return stored if self._is_replica else published_value(self._shape, column, stored, settings)

    def _image_type(self, name: str) -> PortableType:
        """Return the portable type of the column as this database's engine stores it."""
        type_ = self._shape.column(name).type
        if not self._is_replica or self._database.dialect.is_own_engine(self._shape.engine):
            return type_
        dialect = self._database.engine.dialect
        return portable_type(replica_type(type_, self._shape.engine, dialect), dialect)


def _pair(row: Any) -> tuple[str, str]:
    return row[0], row[1]


def _untyped(value: Any) -> sa.BindParameter[Any]:
    """Return a parameter without SQLAlchemy's cast to the value's type. The database takes the column's type."""
    return sa.bindparam(None, value, type_=sa.types.NullType())
