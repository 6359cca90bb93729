"""The tables as triggers must write them: the columns that the database has, of the types that the models declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection

from rowcast.producer.outbox import PREFIX
from rowcast.producer.tables import CapturedTable, CapturedTables
from rowcast.shared.errors import ConfigurationError

Name = tuple[str | None, str]
"""Schema (None: the default one) and table."""


@dataclass(frozen=True, slots=True)
class Definitions:
    """Where the definitions of tables come from, beside the database: the application's metadata, if it is known, and
    ``[tables]`` of the configuration."""

    metadata: sa.MetaData | None = None
    configured: Mapping[str, Any] = field(default_factory=dict)

    def read(self, connection: Connection, names: Iterable[Name]) -> list[CapturedTable]:
        """The tables of these schemas (None: the default one) and names.

        Raises ConfigurationError if one is not there, has no primary key, is left out of the capture, or cannot leave
        as its settings say.
        """
        reflected = sa.MetaData()
        event.listen(reflected, "column_reflect", self._declare_type)
        tables = [self._reflect(connection, reflected, schema, name) for schema, name in names]
        wanted = CapturedTables(reflected, self.configured)
        default = connection.dialect.default_schema_name or "main"
        captured = []
        for table in tables:
            if not wanted.wants(table):
                raise ConfigurationError(
                    f"{table.fullname} is left out of the capture, in the configuration or by its info['rowcast']: "
                    "take that out, or name other tables."
                )
            if not table.primary_key.columns:
                raise ConfigurationError(
                    f"{table.fullname} has no primary key, so its rows cannot be told apart. Add one, or leave it out."
                )
            captured.append(wanted.on(table, connection.dialect, default))
        return captured

    def declared(self, name: str, schema: str | None) -> sa.Table | None:
        """The application's own definition of the table."""
        if self.metadata is None:
            return None
        return self.metadata.tables.get(f"{schema}.{name}" if schema else name)

    def _reflect(self, connection: Connection, metadata: sa.MetaData, schema: str | None, name: str) -> sa.Table:
        if schema == connection.dialect.default_schema_name and self.declared(name, schema) is None:
            schema = None
        try:
            table = sa.Table(name, metadata, schema=schema, autoload_with=connection)
        except exc.NoSuchTableError:
            raise ConfigurationError(
                f"there is no table {f'{schema}.{name}' if schema else name} in {connection.engine.url}."
            ) from None
        declared = self.declared(name, schema)
        if declared is not None:
            table.info.update(declared.info)
            for column in table.columns:
                if (own := _column_of(declared, str(column.name))) is not None:
                    column.info.update(own.info)
        return table

    def _declare_type(self, _inspector: Any, table: sa.Table, column: dict[str, Any]) -> None:
        # A database may not know what a column is for: MariaDB has no boolean, SQLite no uuid.
        declared = self.declared(table.name, table.schema)
        if declared is not None and (own := _column_of(declared, column["name"])) is not None:
            column["type"] = own.type


def _column_of(table: sa.Table, name: str) -> sa.Column[Any] | None:
    return next((c for c in table.columns if c.name == name), None)


def chosen(connection: Connection, definitions: Definitions, patterns: Sequence[str]) -> list[Name]:
    """The tables that patterns select or, without any, those whose declared mode is triggers.

    Raises ConfigurationError if none is, or if the application declares that listeners capture one.
    """
    if not patterns:
        if declared := declared_names(connection, definitions):
            return declared
        raise ConfigurationError(
            'which tables? Name them, or say mode = "triggers" in the configuration\'s [tables], or '
            "Table(info={'rowcast': 'triggers'}) in the models and name these with --metadata."
        )
    names = matching(_table_names(connection, definitions), patterns, connection.dialect.default_schema_name or "main")
    if definitions.metadata is not None:
        wanted = CapturedTables(definitions.metadata, definitions.configured)
        for schema, name in names:
            declared_table = definitions.declared(name, schema)
            if declared_table is not None and wanted.listens(declared_table):
                raise ConfigurationError(
                    f"the application captures {declared_table.fullname} by its listeners. Declare it with "
                    "Table(info={'rowcast': 'triggers'}), or mode = \"triggers\" in its settings, or name other tables."
                )
    return names


def declared_names(connection: Connection, definitions: Definitions) -> list[Name]:
    """The tables that are there and whose mode is triggers, in the models or the configuration."""
    names = _table_names(connection, definitions)
    if definitions.metadata is None:
        default = connection.dialect.default_schema_name or "main"
        modes = {name: table.mode for name, table in definitions.configured.items()}
        return [n for n in names if "triggers" in (modes.get(f"{n[0] or default}.{n[1]}"), modes.get(n[1]))]
    wanted = CapturedTables(definitions.metadata, definitions.configured)
    found = []
    for schema, name in names:
        declared = definitions.declared(name, schema)
        if declared is not None and wanted.wants(declared) and not wanted.listens(declared):
            found.append((schema, name))
    return found


def _table_names(connection: Connection, definitions: Definitions) -> list[Name]:
    """The tables there are, rowcast's own apart: of the default schema and of those that the metadata names. A
    partition is not one: its rows belong to the whole."""
    inspector = sa.inspect(connection)
    schemas = {t.schema for t in definitions.metadata.tables.values()} if definitions.metadata else set()
    found: list[Name] = []
    for schema in sorted({None, *schemas}, key=str):
        partitions = _partitions(connection, schema)
        found += [(schema, n) for n in inspector.get_table_names(schema) if n not in partitions]
    own = ("alembic_version", "sqlite_sequence")
    return [(schema, name) for schema, name in found if not name.startswith(PREFIX) and name not in own]


def _partitions(connection: Connection, schema: str | None) -> set[str]:
    if connection.dialect.name != "postgresql":
        return set()
    named = sa.text("SELECT relname FROM pg_class WHERE relispartition AND relnamespace = to_regnamespace(:schema)")
    return set(connection.scalars(named, {"schema": schema or connection.dialect.default_schema_name}))


def matching(names: Iterable[Name], patterns: Iterable[str], default: str = "") -> list[Name]:
    """Those that a shell pattern over ``schema.table``, or over ``table`` alone, selects.

    Raises ConfigurationError for a pattern that selects none.
    """
    names = list(names)
    selected: dict[Name, None] = {}
    for pattern in patterns:
        found = [n for n in names if fnmatchcase(f"{n[0] or default}.{n[1]}", pattern) or fnmatchcase(n[1], pattern)]
        if not found:
            known = ", ".join(f"{schema or default}.{name}" for schema, name in names) or "none"
            raise ConfigurationError(f"no table is called {pattern!r}. There are: {known}.")
        selected.update(dict.fromkeys(found))
    return list(selected)
