"""Say for each captured table whether its keys are known from sent values, and how its keys are read and bound.

The key in an event must be the key as stored. A sent value is the stored value only if the column's type stores each
such value unchanged. A value in a condition is the stored value only if, in addition, the database takes no different
values for equal.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from rowcast.producer.database.dialects import KeyDialect, capture_dialect
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT
from rowcast.shared.tables.shape import PortableType
from rowcast.shared.tables.type_mapping import portable_type, storage_type


class KeyFacts(NamedTuple):
    """Say what only the database knows of a table's keys."""

    rewritten: bool
    """Whether a trigger may change the key of an inserted row, or a trigger or rule may replace the INSERT."""
    rekeyed: bool
    """Whether triggers may change the key of an updated row."""
    folds: bool
    """Whether the database takes different texts for equal keys."""


Catalogue = Mapping[str, KeyFacts]
"""The facts by name of a table in a schema. A table without facts is left out."""


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """Describe a key column on an engine."""

    given: sa.Column[Any]
    """The column with the type that binds the application's values."""
    stored: ColumnElement[Any]
    """The column with a type that reads and binds stored values without any loss."""
    kind: type[Any] | None
    """The class of the values that are stored exactly as they are sent, or None."""
    is_exact: Callable[[Any], bool] | None
    """Say whether a value of the class is stored as sent. None: every value is."""
    folds: bool
    """Whether the column can hold different values that the database takes for equal."""
    portable: PortableType
    keys: KeyDialect

    def accepts(self, class_: type[Any]) -> bool:
        """Return whether values of the class can be stored exactly as they are sent."""
        # Drivers have subclasses of UUID.
        return class_ is self.kind or (self.kind is uuid.UUID and issubclass(class_, uuid.UUID))

    def holds_all(self, values: Sequence[Any]) -> bool:
        """Return whether the column would store the values exactly as they are. None and expressions do not count."""
        for class_ in set(map(type, values)):
            if not (class_ is NoneType or issubclass(class_, ClauseElement) or self.accepts(class_)):
                return False
        return self.is_exact is None or all(self.is_exact(v) for v in values if self.accepts(type(v)))

    def as_stored(self, value: Any, dialect: Dialect) -> ColumnElement[Any]:
        """Return the expression for a value of the application as the column stores it."""
        bound = sa.bindparam(None, value, type_=self.given.type)
        return self.keys.as_stored(bound, storage_type(self.given.type, dialect), self.portable)

    def has_identity(self, value: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return the condition that the stored value is the value, and not only equal to it."""
        return self.keys.identity(self.given, self.portable) == self.keys.identity(value, self.portable)


def key_column(column: sa.Column[Any], dialect: Dialect) -> KeyColumn:
    """Describe a column of a primary key."""
    keys = capture_dialect(dialect).keys
    stored, type_ = storage_type(column.type, dialect), portable_type(column.type, dialect)
    kind = None if _is_converted(column.type, dialect) else keys.exact_kind(stored, type_)
    reader = column if kind is not None else typed_column(column, column.table, keys.stored_type(stored, type_))
    folds = keys.folds(stored, type_, exact=kind is not None)
    return KeyColumn(column, reader, kind, keys.exact_value(stored, type_), folds, type_, keys)


def _is_converted(type_: TypeEngine[Any], dialect: Dialect) -> bool:
    """Return whether code of the application converts the values of a column."""
    type_ = type_._variant_mapping.get(dialect.name, type_)
    if isinstance(type_, TypeDecorator):
        return _has_own(type_, TypeDecorator) or _is_converted(type_.load_dialect_impl(dialect), dialect)
    return not type(type_).__module__.startswith("sqlalchemy.")


def _has_own(type_: TypeEngine[Any], base: type[Any]) -> bool:
    names = ("process_bind_param", "process_result_value", "bind_processor", "result_processor", "bind_expression")
    return any(getattr(type(type_), name) is not getattr(base, name) for name in names)


def typed_column(column: Any, table: Any, type_: TypeEngine[Any]) -> Any:
    """Return a column of a table object under the same name, but with another type."""
    other = sa.column(column.name, type_)
    other.table = table
    return other


def reading(expression: ColumnElement[Any], type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """Return the expression that reads a key for the type of a column in ``StoredKeys.columns``."""
    read = type_.column_expression(expression)
    return expression if read is None else read


def binding(expression: ColumnElement[Any], type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """Return the value of the column for a key as it was read with ``reading``. Parameters need no such call."""
    bound = type_.bind_expression(expression)  # type: ignore[arg-type]  # any expression will do
    return expression if bound is None else bound


def array_type(column: Any) -> TypeEngine[Any]:
    """Return the type of an array's elements that bind keys of a column in ``StoredKeys.columns`` (PostgreSQL)."""
    # Keys of inexact types are bound as text.
    return column.type if isinstance(column, sa.Column) else sa.Text()


class StoredKeys:
    """Know the keys of a table on an engine. ``columns``: the columns of the primary key."""

    __slots__ = (
        "_accepted", "_checked", "_sql", "are_exact", "are_rekeyed", "are_rewritten", "columns", "dialect",
        "folding_columns", "folds_names", "given", "is_complete", "key_columns",
    )  # fmt: skip

    def __init__(self, columns: Sequence[sa.Column[Any]], dialect: Dialect) -> None:
        self.dialect = dialect
        self.folds_names = capture_dialect(dialect).folds_column_names
        """Whether names of columns that differ in case only are the same name."""
        self.key_columns = tuple(key_column(column, dialect) for column in columns)
        self.given = tuple(columns)
        """The key columns with the types that bind the application's values."""
        self.are_exact = all(column.kind is not None for column in self.key_columns)
        """Whether the values of a condition can be keys as they are stored, or equal to them."""
        exact = all(column.stored is column.given for column in self.key_columns)
        self.columns: tuple[Any, ...] = self.given if exact else tuple(column.stored for column in self.key_columns)
        """The key columns with the types that read and bind stored keys. They are ``given`` if all types are exact."""
        self._checked = [(i, column.is_exact) for i, column in enumerate(self.key_columns) if column.is_exact]
        self.are_rewritten = False
        """Whether a trigger may change the keys of inserted rows, or a trigger or rule may replace the INSERT."""
        self.are_rekeyed = False
        """Whether triggers may change the keys of updated rows."""
        self._sql: dict[bool, tuple[str, ...]] = {}
        self.folding_columns = tuple(column for column in self.key_columns if column.folds)
        """The columns that can hold different values that the database takes for equal."""
        self.is_complete = capture_dialect(dialect).keys.catalogue is None
        """Whether the catalogue was read, if it is to be read."""
        # Whether values of these classes are a stored key, for each combination that was asked about.
        self._accepted: dict[tuple[type[Any], ...], bool] = {}

    def learn(self, catalogue: Catalogue, name: str) -> None:
        """Take over what only the database knows of the table. ``catalogue``: of the table's schema."""
        self.is_complete = True
        if name in catalogue:
            self.are_rewritten, self.are_rekeyed, folds = catalogue[name]
            self.folding_columns = tuple(c for c in self.key_columns if c.folds or (folds and c.kind is str))

    def returning(self, *, qualified: bool) -> tuple[str, ...]:
        """Return the SQL expressions that read the key in a RETURNING. ``qualified``: with the name of the table."""
        found = self._sql.get(qualified)
        if found is None:
            options = {"include_table": qualified}
            read = (reading(column, column.type) for column in self.columns)
            found = tuple(str(one.compile(dialect=self.dialect, compile_kwargs=options)) for one in read)
            self._sql[qualified] = found
        return found

    # -- keys from sent values

    @property
    def may_be_sent(self) -> bool:
        """Whether the values of an INSERT can be the stored keys."""
        return self.are_exact and not self.are_rewritten

    def holds(self, key: Sequence[Any]) -> bool:
        """Return whether the columns would store the values exactly as they are. Triggers do not count."""
        classes = tuple(map(type, key))
        try:
            accepted = self._accepted[classes]
        except KeyError:
            accepted = self._accepted[classes] = all(
                column.accepts(class_) for column, class_ in zip(self.key_columns, classes, strict=True)
            )
        return accepted and (not self._checked or all(check(key[i]) for i, check in self._checked))

    def holds_all(self, columns: Sequence[Sequence[Any]]) -> bool:
        """Return whether the columns would store all values exactly as they are. ``columns``: values by column."""
        for column, values in zip(self.key_columns, columns, strict=True):
            if not all(map(column.accepts, set(map(type, values)))):
                return False
        return not self._checked or all(check(value) for i, check in self._checked for value in columns[i])

    def holds_keys(self, keys: Sequence[Sequence[Any]]) -> bool:
        """Return whether the columns would store all keys exactly as they are."""
        if len(keys) == 1:
            return self.holds(keys[0])
        return not keys or self.holds_all(list(zip(*keys, strict=True)))


def stored_key_columns(table: sa.Table, dialect: Dialect, alias: sa.FromClause | None = None) -> list[Any]:
    """Return the key columns of a table as ``StoredKeys.columns``. ``alias``: return the columns of an alias."""
    own = table if alias is None else alias
    described = [key_column(column, dialect) for column in table.primary_key.columns]
    return [own.c[c.given.key] if c.stored is c.given else typed_column(c.given, own, c.stored.type) for c in described]


def read_catalogue(connection: Connection, schema: str) -> Catalogue:
    """Read what no model shows of the keys of all tables in a schema."""
    query = capture_dialect(connection.dialect).keys.catalogue
    if query is None:
        return {}
    rows = connection.execute(query, {"schema": schema}, execution_options=INTERNAL_STATEMENT)
    return {name: KeyFacts(*map(bool, facts)) for name, *facts in rows}
