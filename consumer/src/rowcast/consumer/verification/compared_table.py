"""A table of the primary or of the replica, as comparable row images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects import ReplicaColumn, ReplicaTable, quoted_name
from rowcast.consumer.replica.table_definitions import replica_name
from rowcast.consumer.verification.compared_database import ComparedDatabase
from rowcast.consumer.views.conditions import Row
from rowcast.consumer.views.row_view import RowView
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.images import RowImage
from rowcast.shared.images.published_rows import published_value, row_filter
from rowcast.shared.tables.key_order import KeyOrder
from rowcast.shared.tables.shape import ColumnShape, PortableType, TableShape
from rowcast.shared.tables.type_mapping import portable_type, replica_type

_KEYS_PER_QUERY = 1_000
# Keys of several columns are found by an OR of conditions. SQLite refuses expressions deeper than 1,000.
_COMPOSITE_KEYS_PER_QUERY = 250


class ComparedTable:
    """A table, as row images.

    On the primary, the images are of the published rows and values: the rows that pass the row filter, and masked
    columns as masked. On the replica, the images are of the values as stored by the replica's engine.

    ``settings`` hold the primary's salts. ``rows``: the view through which the rows of the primary are compared, or
    None if the replica gets them unchanged. Raise ConfigurationError if a salt or a column is missing.
    """

    def __init__(
        self, database: ComparedDatabase, shape: TableShape, *, is_replica: bool, settings: TableSettings,
        rows: RowView | None = None,
    ) -> None:  # fmt: skip
        self.database = database
        self.shape = shape
        self.rows = rows
        self._is_replica = is_replica
        self._layout = RowLayout(shape, tuple(c.name for c in shape.columns))
        if is_replica:
            self.schema, self.name = replica_name(shape, database.dialect)
        else:
            self.schema, self.name = (None if shape.default_schema else shape.schema), shape.name
        self.columns = self._read_columns()
        self._from = sa.table(self.name, *(sa.column(c.name) for c in shape.columns), schema=self.schema)
        self._values: dict[str, ColumnElement[Any]] = {c.name: self._value(c, settings) for c in shape.columns}
        self._filter: ColumnElement[bool] = sa.true() if is_replica else row_filter(shape)
        key = [(self._image_column(name), self._from.c[name]) for name in shape.primary_key]
        self._order = KeyOrder(database.engine.dialect.name, key)
        self.key_image = self._image(shape.primary_key)
        self.row_image = self._image(self._layout.columns)

    def seen(self, image: Row) -> Row | None:
        """Return a row as the replica is to have it, or None if the replica does not get the row.

        Raise DataError for a value that the condition of the view cannot compare.
        """
        try:
            return image if self.rows is None else self.rows.row(image)
        except DataError as error:
            raise DataError(f"table {self.shape.full_name}: the view: {error}. Correct the value") from error

    @property
    def exists(self) -> bool:
        """Return whether the database has the table."""
        return bool(self.columns)

    def _read_columns(self) -> dict[str, ReplicaColumn]:
        database, shape = self.database, self.shape
        with database.connect() as connection:
            columns = database.dialect.read_columns(connection, self.schema, self.name)
            quoted = quoted_name(connection, self.schema, self.name)
        self._table = ReplicaTable(self.schema, self.name, quoted, columns, shape.primary_key, other_unique=False)
        missing = self._layout.names - columns.keys()
        if columns and missing:
            raise ConfigurationError(
                f"table {shape.full_name} has no column {', '.join(sorted(missing))} in the {database.label} database. "
                "Add the column there."
            )
        return columns

    def key_column(self, name: str) -> ColumnElement[Any]:
        """Return the expression of a column of the primary key."""
        return self._from.c[name]

    def estimate_rows(self) -> int:
        """Return about how many rows the table has."""
        if not self.exists:
            return 0
        with self.database.connect() as connection:
            return self.database.sql.estimate_rows(connection, self.schema, self.name)

    def page_end(
        self, connection: Connection, last: Sequence[Any] | None, rows: int, within: ColumnElement[bool]
    ) -> tuple[Any, ...] | None:
        """Return the key of the last row of the page after ``last``, or None for the last page.

        ``within``: the condition for rows that count.
        """
        keys = self.select(within, *self._order.last).order_by(*self._order.by)
        if last is not None:
            keys = keys.where(self._order.after(last))
        row = connection.execute(keys.offset(rows - 1).limit(1)).first()
        return None if row is None else tuple(row)

    def between(self, last: Sequence[Any] | None, end: Sequence[Any] | None) -> ColumnElement[bool]:
        """Return the condition for the published rows after ``last`` up to ``end``. None stands for no bound."""
        after = [] if last is None else [self._order.after(last)]
        up_to = [] if end is None else [self._order.up_to(end)]
        return sa.and_(self._filter, *after, *up_to)

    def select(self, condition: ColumnElement[bool], *expressions: ColumnElement[Any]) -> sa.Select[Any]:
        """Return a SELECT of expressions over the rows that fulfil a condition."""
        return sa.select(*expressions).select_from(self._from).where(condition)

    def published(self, condition: ColumnElement[bool]) -> ColumnElement[bool]:
        """Return the condition for the published rows that fulfil a condition."""
        return sa.and_(self._filter, condition)

    def find(self, connection: Connection, keys: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
        """Return (key, image) of the existing rows with these keys."""
        if not self.exists:
            return []
        size = _KEYS_PER_QUERY if len(self.shape.primary_key) == 1 else _COMPOSITE_KEYS_PER_QUERY
        found: list[tuple[str, str]] = []
        for start in range(0, len(keys), size):
            condition = self.published(self._has_key(keys[start : start + size]))
            query = self.select(condition, self.key_image, self.row_image)
            found += [(row[0], row[1]) for row in connection.execute(query)]
        return found

    def _has_key(self, keys: Sequence[dict[str, Any]]) -> ColumnElement[bool]:
        """Return the condition for the rows with these keys."""
        columns = [self._from.c[name] for name in self.shape.primary_key]
        documents = [orjson.dumps(key) for key in keys]
        values = self.database.dialect.key_values(self._table, self._layout, documents)
        if len(columns) == 1:
            return columns[0].in_([_untyped(row[0]) for row in values])
        conditions = []
        for row in values:
            conditions.append(sa.and_(*(c == _untyped(v) for c, v in zip(columns, row, strict=True))))
        return sa.or_(*conditions)

    def _image(self, names: Sequence[str]) -> RowImage:
        return RowImage([(name, self._values[name], self._image_type(name)) for name in names])

    def _value(self, column: ColumnShape, settings: TableSettings) -> ColumnElement[Any]:
        stored = self._from.c[column.name]
        return stored if self._is_replica else published_value(self.shape, column, stored, settings)

    def _image_column(self, name: str) -> ColumnShape:
        return ColumnShape(name, self._image_type(name))

    def _image_type(self, name: str) -> PortableType:
        """Return the portable type of the column as stored by this database's engine."""
        type_ = self.shape.column(name).type
        if not self._is_replica or self.database.dialect.is_own_engine(self.shape.engine):
            return type_
        dialect = self.database.engine.dialect
        return portable_type(replica_type(type_, self.shape.engine, dialect), dialect)


def _untyped(value: Any) -> sa.BindParameter[Any]:
    """Return a parameter without SQLAlchemy's cast to the value's type. The database takes the column's type."""
    return sa.bindparam(None, value, type_=sa.types.NullType())
