"""The tables that are captured, as they are on one engine, and what of them leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import Dialect

from rowcast.producer.outbox import PREFIX
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.images import Masked
from rowcast.shared.images.masks import digest_length
from rowcast.shared.shapes import ColumnShape, Masking, PortableType, TableShape
from rowcast.shared.table_settings import ColumnSettings, TableSettings, read_column_settings, read_table_settings
from rowcast.shared.types import shape_of

_TEXTS = frozenset(("string", "char", "text", "enum"))


class CapturedTable:
    """One captured table on one engine: its shape, and what the drain needs of it. Equal only to itself.

    ``settings``: see ``settings_of``, which is asked where none are given. Raises ConfigurationError if a column has a
    type that the engine does not have, or cannot be masked as the settings say.
    """

    __slots__ = ("_salts", "before", "columns", "key_columns", "shape", "table", "types", "version", "where")

    def __init__(
        self, table: sa.Table, dialect: Dialect, default_schema: str, settings: TableSettings | None = None
    ) -> None:
        settings = settings if settings is not None else settings_of(table)
        self.table = table
        self.key_columns: tuple[sa.Column[Any], ...] = tuple(table.primary_key.columns)
        try:
            whole = shape_of(table, dialect, default_schema)
        except exc.CompileError as error:
            raise ConfigurationError(
                f"table {table.fullname!r} has a column whose type {dialect.name} does not have ({error}). "
                "Give that column a type this engine has, or leave the table out with info={'rowcast': False}."
            ) from error
        self.shape: TableShape = _leaving(whole, settings)
        self.types: dict[str, PortableType] = {c.name: c.type for c in self.shape.columns}
        self.columns: tuple[sa.Column[Any], ...] = tuple(c for c in table.columns if str(c.name) in self.types)
        """Those that leave."""
        self.where = settings.where
        self.before = settings.before
        self._salts = {name: c.salt.get_secret_value() for name, c in settings.columns.items() if c.salt is not None}
        self.version = self.shape.version

    @property
    def full_name(self) -> str:
        """``schema.table``."""
        return self.shape.full_name

    def leaving(self, column: sa.Column[Any], value: ColumnElement[Any]) -> ColumnElement[Any]:
        """What leaves in place of a value of the column: the value itself, or what its mask makes of it."""
        shape = self.shape.column(str(column.name))
        if shape.masking is None:
            return value
        return Masked(value, shape.masking, shape.type.length, self._salts.get(shape.name))


def settings_of(table: sa.Table, configured: TableSettings | None = None) -> TableSettings:
    """What ``Table.info`` and its columns' ``info`` say under ``"rowcast"``; what ``configured`` says goes before it.

    Raises ConfigurationError, naming table and column, if either is not valid, or if key columns would not leave.
    """
    where = f"info['rowcast'] of table {table.fullname!r}"
    settings = read_table_settings(table.info.get("rowcast", True), where)
    columns: dict[str, ColumnSettings] = {}
    for column in table.columns:
        if (said := column.info.get("rowcast")) is not None:
            columns[str(column.name)] = read_column_settings(said, f"info['rowcast'] of column {column!s}")
    settings = settings.over(TableSettings(columns=columns))
    if configured is not None:
        settings = configured.over(settings)
    if settings.capture:
        _check(table, settings)
    return settings


def _check(table: sa.Table, settings: TableSettings) -> None:
    columns = {str(c.name) for c in table.columns}
    if unknown := sorted(settings.columns.keys() - columns):
        raise ConfigurationError(
            f"the settings of table {table.fullname!r} name a column {', '.join(map(repr, unknown))}, which it does "
            f"not have (it has: {', '.join(sorted(columns))}). A column is called as in the database."
        )
    for name, column in settings.columns.items():
        if (column.hash is None) is not (column.salt is None):
            what = "a hash without a salt, which anybody can undo" if column.salt is None else "a salt without a hash"
            raise ConfigurationError(
                f"column {name!r} of table {table.fullname!r} has {what}: give it both, or neither, in the "
                "configuration, Column.info, or one here and one there."
            )
    for name in (str(c.name) for c in table.primary_key.columns):
        if name in settings.columns and (form := _form(settings.columns[name])):
            raise ConfigurationError(
                f"column {name!r} of table {table.fullname!r} is {form}, but belongs to the primary key, "
                "by which consumers know the row. Leave the key as it is, or leave out the table."
            )


def _form(settings: ColumnSettings) -> str:
    if not settings.capture:
        return "left out"
    forms = {"masked": settings.mask, "truncated": settings.truncate, "hashed": settings.hash}
    return next((form for form, value in forms.items() if value is not None), "")


def _leaving(shape: TableShape, settings: TableSettings) -> TableShape:
    """The shape of what leaves. A constraint over a column that does not leave as it is need not hold for that."""
    columns = tuple(
        _masked(shape, column, settings.columns[column.name]) if column.name in settings.columns else column
        for column in shape.columns
        if column.name not in settings.columns or settings.columns[column.name].capture
    )
    whole = {column.name for column in columns if column.masking is None}
    return replace(
        shape,
        columns=columns,
        unique=tuple(key for key in shape.unique if whole.issuperset(key)),
        foreign_keys=tuple(key for key in shape.foreign_keys if whole.issuperset(key.columns)),
        where=settings.where,
    )


def _masked(shape: TableShape, column: ColumnShape, settings: ColumnSettings) -> ColumnShape:
    form = _form(settings)
    if not form:
        return column
    masking = Masking(settings.mask, settings.truncate, settings.hash)
    if form == "masked":
        return replace(column, type=PortableType("text"), masking=masking)
    if column.type.name not in _TEXTS:
        raise ConfigurationError(
            f"column {column.name!r} of table {shape.full_name} is to be {form}, and its type, {column.type.name}, is "
            "no text. Give it a mask, which stands for values of any type, or leave it out."
        )
    longest = settings.truncate if settings.hash is None else digest_length(settings.hash)
    assert longest is not None
    # A digest is cut to the column's length, so that what held the values can hold the digests.
    length = min(longest, column.type.length or longest)
    return replace(column, type=PortableType("string", length=length), masking=masking)


class CapturedTables:
    """Which tables of a metadata are captured, and what leaves of each.

    ``configured``: by ``schema.table``, or by ``table`` where a table names no schema; the values as
    ``read_table_settings`` takes them. Raises ConfigurationError if one is not valid.
    """

    def __init__(self, metadata: sa.MetaData, configured: Mapping[str, Any] | None = None) -> None:
        self.metadata = metadata
        self._configured = {
            name: read_table_settings(value, f"the settings of table {name!r}")
            for name, value in (configured or {}).items()
        }
        self._settings: dict[sa.Table, TableSettings] = {}

    def __iter__(self) -> Iterator[sa.Table]:
        """Every table to capture. In no order: where foreign keys go round, sorting would warn the application."""
        return (table for table in list(self.metadata.tables.values()) if self.wants(table))

    def wants(self, table: sa.Table) -> bool:
        """Whether this table of the metadata is captured."""
        return not table.name.startswith(PREFIX) and self.settings(table).capture

    def listens(self, table: sa.Table) -> bool:
        """Whether listeners capture the table, not triggers."""
        return self.wants(table) and self.settings(table).mode == "listeners"

    def settings(self, table: sa.Table) -> TableSettings:
        """What leaves of the table. Raises ConfigurationError as ``settings_of``."""
        settings = self._settings.get(table)
        if settings is None:
            name = self._configured_name(table)
            settings = self._settings[table] = settings_of(table, None if name is None else self._configured[name])
        return settings

    def _configured_name(self, table: sa.Table) -> str | None:
        if table.schema is not None:
            name = f"{table.schema}.{table.name}"
            return name if name in self._configured else None
        if table.name in self._configured:
            return str(table.name)
        # The default schema's name is the server's: ``on`` compares it.
        return next((n for n in self._configured if n.endswith(f".{table.name}") and not self._has(n)), None)

    def _has(self, name: str) -> bool:
        table = self.metadata.tables.get(name)
        return table is not None and table.schema is not None

    def on(self, table: sa.Table, dialect: Dialect, default_schema: str) -> CapturedTable:
        """The table as it is on this engine. ``default_schema``: what the connection calls the schema of a table that
        names none. Raises ConfigurationError as CapturedTable, and if the configuration means another schema's."""
        name = self._configured_name(table)
        if table.schema is None and name not in (None, table.name, f"{default_schema}.{table.name}"):
            raise ConfigurationError(
                f"the configuration names the table {name!r}, but {table.name!r} is in the schema {default_schema!r}. "
                f"Call it {f'{default_schema}.{table.name}'!r}, or {table.name!r} alone."
            )
        return CapturedTable(table, dialect, default_schema, self.settings(table))

    def check(self) -> None:
        """Raises ConfigurationError naming each table that cannot be captured or is not there: one without a primary
        key, one whose settings are not valid, one that only the configuration names."""
        keyless = [table.fullname for table in self if not table.primary_key.columns]
        if keyless:
            raise ConfigurationError(
                f"cannot capture {', '.join(map(repr, keyless))}: no primary key, so its rows cannot be told apart. "
                "Add one, or leave the table out with Table(info={'rowcast': False})."
            )
        if unknown := self.unknown():
            known = ", ".join(sorted(table.fullname for table in self.candidates())) or "none"
            raise ConfigurationError(
                f"the configuration names the table {', '.join(map(repr, unknown))}, which the metadata does not have "
                f"(it has: {known})."
            )

    def candidates(self) -> list[sa.Table]:
        """The tables of the metadata that are not rowcast's own."""
        return [table for table in self.metadata.tables.values() if not table.name.startswith(PREFIX)]

    def unknown(self) -> list[str]:
        """The names in the configuration that no table has."""
        meant = {self._configured_name(table) for table in self.candidates()}
        return [name for name in self._configured if name not in meant]
