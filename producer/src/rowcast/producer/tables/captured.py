"""Choose the captured tables of a metadata, and describe the published part of each table on an engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import Dialect

from rowcast.producer.tables.former_names import require_free
from rowcast.producer.tables.stored_keys import StoredKeys
from rowcast.shared.config.table_settings import (
    ColumnSettings,
    TableSettings,
    read_column_settings,
    read_table_settings,
)
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.images import Masked
from rowcast.shared.images.masks import digest_length
from rowcast.shared.tables.own_tables import is_rowcast_table
from rowcast.shared.tables.shape import ColumnShape, Masking, PortableType, TableShape
from rowcast.shared.tables.type_mapping import shape_of

_TEXTS = frozenset(("string", "char", "text", "enum"))


class CapturedTable:
    """Hold a captured table on an engine: the shape, and the means to write row images.

    A captured table is equal only to itself. Without ``settings``, ``read_settings`` reads ``Table.info``. Raises
    ConfigurationError if the engine does not have the type of a column, if a foreign key refers to an unknown table, or
    if a column cannot be masked as the settings say.
    """

    __slots__ = (
        "__weakref__",
        "_masked",
        "_own",
        "_own_names",
        "columns",
        "has_before_images",
        "key_columns",
        "salts",
        "shape",
        "stored_keys",
        "table",
        "types",
        "version",
        "where",
    )

    def __init__(
        self, table: sa.Table, dialect: Dialect, default_schema: str, settings: TableSettings | None = None
    ) -> None:
        settings = settings if settings is not None else read_settings(table)
        self.table = table
        self.key_columns: tuple[sa.Column[Any], ...] = tuple(table.primary_key.columns)
        _check_foreign_keys(table)
        self.stored_keys = StoredKeys(self.key_columns, dialect)
        try:
            whole = shape_of(table, dialect, default_schema)
        except exc.CompileError as error:
            raise ConfigurationError(
                f"table {table.fullname!r} has a column whose type {dialect.name} does not have ({error}). "
                "Give that column a type this engine has, or leave the table out with info={'rowcast': False}."
            ) from error
        self.shape: TableShape = _published(whole, settings)
        self.types: dict[str, PortableType] = {c.name: c.type for c in self.shape.columns}
        self.columns: tuple[sa.Column[Any], ...] = tuple(c for c in table.columns if str(c.name) in self.types)
        """The columns that are published."""
        self.where = settings.where
        self.has_before_images = settings.before
        # Dictionaries, because a table may have thousands of columns.
        self._own_names = {c.name.lower(): str(c.name) for c in table.columns}
        self._masked = {c.name: (c.masking, c.type.length) for c in self.shape.columns if c.masking is not None}
        self.salts: Mapping[str, str | ColumnElement[str]] = {
            name: c.salt.get_secret_value() for name, c in settings.columns.items() if c.salt is not None
        }
        """The salt of each hashed column."""
        self.version = self.shape.version
        self._own: CapturedTable | None = None

    @property
    def untranslated(self) -> CapturedTable:
        """Return the table of the metadata. The captured table itself may be a copy in another schema."""
        return self._own or self

    def is_copy_of(self, own: CapturedTable) -> None:
        """Remember the table as the metadata has it."""
        self._own = own

    @property
    def full_name(self) -> str:
        """``schema.table``."""
        return self.shape.full_name

    def own_name(self, name: str) -> str:
        """Return the name of a column as the table spells it, from a name as another table object spells it."""
        return self._own_names.get(name.lower(), name) if self.stored_keys.folds_names else name

    def published_value(self, column: sa.Column[Any], value: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the expression to publish for a value of the column: the value, or a mask."""
        masked = self._masked.get(str(column.name))
        if masked is None:
            return value
        masking, length = masked
        return Masked(value, masking, length, self.salts.get(str(column.name)))

    def with_salts(self, salts: Mapping[str, ColumnElement[str]]) -> CapturedTable:
        """Return the table with expressions in place of the salts, by column."""
        table = copy.copy(self)
        table.salts = salts
        return table


def read_settings(table: sa.Table, configured: TableSettings | None = None) -> TableSettings:
    """Return the settings from ``info["rowcast"]`` of the table and its columns.

    ``configured`` takes precedence. Raises ConfigurationError, naming table and column, if a setting is not valid or if
    the key would not be published unchanged.
    """
    where = f"info['rowcast'] of table {table.fullname!r}"
    settings = read_table_settings(table.info.get("rowcast", True), where)
    columns: dict[str, ColumnSettings] = {}
    for column in table.columns:
        if (info := column.info.get("rowcast")) is not None:
            columns[str(column.name)] = read_column_settings(info, f"info['rowcast'] of column {column!s}")
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
            f"not have (it has: {', '.join(sorted(columns))}). Use the names of the columns in the database."
        )
    for name, column in settings.columns.items():
        if (column.hash is None) is not (column.salt is None):
            what = (
                "a hash without a salt, which can be reversed by trying values"
                if column.salt is None
                else "a salt without a hash"
            )
            raise ConfigurationError(
                f"column {name!r} of table {table.fullname!r} has {what}. Give it both or neither. "
                "Each can be in the configuration or in Column.info."
            )
    for name in (str(c.name) for c in table.primary_key.columns):
        if name in settings.columns and (form := _form(settings.columns[name])):
            raise ConfigurationError(
                f"column {name!r} of table {table.fullname!r} is {form}, but belongs to the primary key, "
                "by which consumers find the row. Publish the key unchanged, or leave out the table."
            )


def _form(settings: ColumnSettings) -> str:
    if not settings.capture:
        return "left out"
    forms = {"masked": settings.mask, "truncated": settings.truncate, "hashed": settings.hash}
    return next((form for form, value in forms.items() if value is not None), "")


def _published(shape: TableShape, settings: TableSettings) -> TableShape:
    """Return the shape of the published rows.

    Constraints over masked or missing columns are dropped, because the published rows need not satisfy them. So are
    indexes.
    """
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
        indexes=tuple(index for index in shape.indexes if whole.issuperset(index.columns)),
        where=settings.where,
        was=tuple(name if "." in name else f"{shape.schema}.{name}" for name in settings.was),
    )


def _check_foreign_keys(table: sa.Table) -> None:
    """Raise ConfigurationError if the metadata does not have a table to which a foreign key refers."""
    try:
        for constraint in table.foreign_key_constraints:
            constraint.referred_table  # noqa: B018  # SQLAlchemy finds the table now
    except exc.NoReferenceError as error:
        raise ConfigurationError(
            f"table {table.fullname!r} has a foreign key to a table that the metadata does not have ({error}). Import "
            "the module of that model before the first change of a captured table, or leave the table out with "
            "info={'rowcast': False}."
        ) from error


def _masked(shape: TableShape, column: ColumnShape, settings: ColumnSettings) -> ColumnShape:
    form = _form(settings)
    column = replace(column, was=settings.was)
    if not form:
        return column
    # A default could say what the mask hides.
    column = replace(column, default=None)
    masking = Masking(settings.mask, settings.truncate, settings.hash)
    if form == "masked":
        return replace(column, type=PortableType("text"), masking=masking)
    if column.type.name not in _TEXTS:
        raise ConfigurationError(
            f"column {column.name!r} of table {shape.full_name} cannot be {form}, because its type, "
            f"{column.type.name}, is no text. Give it a mask, which works with any type, or leave it out."
        )
    longest = settings.truncate if settings.hash is None else digest_length(settings.hash)
    assert longest is not None
    # A digest is cut to the length of the column, because the replica's column has this length.
    length = min(longest, column.type.length or longest)
    return replace(column, type=PortableType("string", length=length), masking=masking)


class CapturedTables:
    """Choose the captured tables of a metadata, and read the settings of each table.

    ``configured`` has settings by ``schema.table``, or by ``table`` if the table names no schema, in any form of
    ``read_table_settings``. Raises ConfigurationError if a setting is not valid.
    """

    def __init__(self, metadata: sa.MetaData, configured: Mapping[str, Any] | None = None) -> None:
        self.metadata = metadata
        self._configured = {
            name: read_table_settings(value, f"the settings of table {name!r}")
            for name, value in (configured or {}).items()
        }
        self._settings: dict[sa.Table, TableSettings] = {}

    def __iter__(self) -> Iterator[sa.Table]:
        """Yield each captured table, in no order.

        SQLAlchemy's sorted tables would warn the application about cycles of foreign keys.
        """
        return (table for table in list(self.metadata.tables.values()) if self.is_captured(table))

    def is_captured(self, table: sa.Table) -> bool:
        """Return whether this table of the metadata is captured. Only its own session sees a temporary table."""
        return not (is_rowcast_table(table.name) or _is_temporary(table)) and self.settings(table).capture

    def uses_listeners(self, table: sa.Table) -> bool:
        """Return whether the table is captured by listeners, and not by triggers."""
        return self.is_captured(table) and self.settings(table).mode == "listeners"

    def named(
        self, schema: str | None, name: str, default_schema: str, fold: Callable[[str], str] = str
    ) -> sa.Table | None:
        """Return the table of the metadata under this name, or None.

        The default schema and no schema are the same place, whichever of them the metadata names. ``fold``: see
        ``CaptureDialect.folded_table_name``.
        """
        places = [schema]
        if schema in (None, default_schema):
            places.append(default_schema if schema is None else None)
        found = (self.metadata.tables.get(f"{place}.{name}" if place else name) for place in places)
        table = next((table for table in found if table is not None), None)
        if table is None:
            of_places = (t for t in self.metadata.tables.values() if t.schema in places)
            table = next((t for t in of_places if fold(t.name) == fold(name)), None)
        return table

    def settings(self, table: sa.Table) -> TableSettings:
        """Return the settings of the table. Raises ConfigurationError as ``read_settings``."""
        settings = self._settings.get(table)
        if settings is None:
            name = self._configured_name(table)
            settings = self._settings[table] = read_settings(table, None if name is None else self._configured[name])
        return settings

    def _configured_name(self, table: sa.Table) -> str | None:
        if table.schema is not None:
            name = f"{table.schema}.{table.name}"
            return name if name in self._configured else None
        if table.name in self._configured:
            return str(table.name)
        # Only the server knows the name of the default schema: ``captured_table`` compares it.
        return next((n for n in self._configured if n.endswith(f".{table.name}") and not self._has(n)), None)

    def _has(self, name: str) -> bool:
        table = self.metadata.tables.get(name)
        return table is not None and table.schema is not None

    def captured_table(self, table: sa.Table, dialect: Dialect, default_schema: str) -> CapturedTable:
        """Return the table as it is on one engine. ``default_schema``: see ``schema_names.default_schema``.

        Raises ConfigurationError as CapturedTable, and if the configuration means a table in another schema.
        """
        name = self._configured_name(table)
        if table.schema is None and name not in (None, table.name, f"{default_schema}.{table.name}"):
            raise ConfigurationError(
                f"the configuration names the table {name!r}, but {table.name!r} is in the schema {default_schema!r}. "
                f"Call it {f'{default_schema}.{table.name}'!r}, or {table.name!r} alone."
            )
        captured = CapturedTable(table, dialect, default_schema, self.settings(table))
        require_free(captured.shape, lambda schema, name: self.named(schema, name, default_schema))
        return captured

    def check(self) -> None:
        """Check whether all tables can be captured.

        Raises ConfigurationError with the names of tables without a primary key, with wrong settings, or only in the
        configuration.
        """
        self.check_keys()
        if unknown := self.unknown_names():
            known = ", ".join(sorted(table.fullname for table in self.application_tables())) or "none"
            raise ConfigurationError(
                f"the configuration names the table {', '.join(map(repr, unknown))}, which the metadata does not have "
                f"(it has: {known})."
            )

    def check_keys(self) -> None:
        """Raise ConfigurationError with the names of tables without a primary key, or with wrong settings."""
        keyless = [table.fullname for table in self if not table.primary_key.columns]
        if keyless:
            raise ConfigurationError(
                f"cannot capture {', '.join(map(repr, keyless))}: no primary key, so that events cannot name "
                "their rows. Add one, or leave the table out with Table(info={'rowcast': False}), or with "
                "capture = false in its section of [tables] in rowcast.toml."
            )

    def application_tables(self) -> list[sa.Table]:
        """Return the tables of the metadata without rowcast's own."""
        return [table for table in self.metadata.tables.values() if not is_rowcast_table(table.name)]

    def unknown_names(self) -> list[str]:
        """Return the names in the configuration without a table in the metadata."""
        meant = {self._configured_name(table) for table in self.application_tables()}
        return [name for name in self._configured if name not in meant]


def _is_temporary(table: sa.Table) -> bool:
    return any("TEMP" in str(prefix).upper() for prefix in table._prefixes)
