"""Reflect tables for triggers: the columns of the database, with the types of the models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.tables.captured import CapturedTable, CapturedTables
from rowcast.producer.tables.reflection import Models
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.own_tables import is_application_table

TableName = tuple[str | None, str]
"""Schema (None: the default schema) and table."""


@dataclass(frozen=True, slots=True)
class ReflectedTables:
    """Reflect tables from the database, and complete them from the application's metadata and configuration.

    ``metadata`` is the application's metadata, or None if it is unknown. ``configured`` is ``[tables]`` of the
    configuration.
    """

    metadata: sa.MetaData | None = None
    configured: Mapping[str, Any] = field(default_factory=dict)

    def read(self, connection: Connection, names: Iterable[TableName]) -> list[CapturedTable]:
        """Return the captured tables with these names.

        Raises ConfigurationError if a table does not exist, has no primary key, is left out of the capture, or cannot
        be published as its settings say.
        """
        default = default_schema(connection.dialect)
        models = Models(() if self.metadata is None else (self.metadata,), default)
        reflected = sa.MetaData()
        event.listen(reflected, "column_reflect", models.complete_column)
        tables = [self._reflect(connection, reflected, schema, name) for schema, name in names]
        for table in tables:
            models.complete_table(table)
        wanted = CapturedTables(reflected, self.configured)
        captured = []
        for table in tables:
            if not wanted.is_captured(table):
                raise ConfigurationError(
                    f"{table.fullname} is left out of the capture by the configuration or by its info['rowcast']. "
                    "Remove that setting, or name other tables."
                )
            if not table.primary_key.columns:
                raise ConfigurationError(
                    f"{table.fullname} has no primary key, so that events cannot name its rows. Add one, or leave "
                    "the table out."
                )
            captured.append(wanted.captured_table(table, connection.dialect, default))
        return captured

    def declared(self, name: str, schema: str | None) -> sa.Table | None:
        """Return the table of the application's metadata, or None for an unknown name."""
        if self.metadata is None:
            return None
        return self.metadata.tables.get(f"{schema}.{name}" if schema else name)

    def _reflect(self, connection: Connection, metadata: sa.MetaData, schema: str | None, name: str) -> sa.Table:
        if schema == default_schema(connection.dialect) and self.declared(name, schema) is None:
            schema = None
        try:
            return sa.Table(name, metadata, schema=schema, autoload_with=connection)
        except exc.NoSuchTableError:
            raise ConfigurationError(
                f"there is no table {f'{schema}.{name}' if schema else name} in {connection.engine.url}. "
                "Create it first."
            ) from None


def choose_tables(connection: Connection, definitions: ReflectedTables, patterns: Sequence[str]) -> list[TableName]:
    """Return the tables matching the patterns or, without patterns, the tables with the declared mode triggers.

    Raises ConfigurationError if no table is found, or if the application declares listeners for a found table.
    """
    if not patterns:
        if declared := declared_tables(connection, definitions):
            return declared
        raise ConfigurationError(
            'no table is named or declared for triggers. Name tables, or set mode = "triggers" in [tables] of the '
            "configuration, or Table(info={'rowcast': 'triggers'}) in the models and give these with --metadata."
        )
    names = match_names(_table_names(connection, definitions), patterns, default_schema(connection.dialect))
    if definitions.metadata is not None:
        wanted = CapturedTables(definitions.metadata, definitions.configured)
        for schema, name in names:
            declared_table = definitions.declared(name, schema)
            if declared_table is not None and wanted.uses_listeners(declared_table):
                raise ConfigurationError(
                    f"the application captures {declared_table.fullname} by listeners. Declare it with "
                    "Table(info={'rowcast': 'triggers'}), or mode = \"triggers\" in its settings, or name other tables."
                )
    return names


def declared_tables(connection: Connection, definitions: ReflectedTables) -> list[TableName]:
    """Return the existing tables whose mode is triggers in the models or the configuration."""
    names = _table_names(connection, definitions)
    if definitions.metadata is None:
        default = default_schema(connection.dialect)
        modes = {name: table.mode for name, table in definitions.configured.items()}
        return [n for n in names if "triggers" in (modes.get(f"{n[0] or default}.{n[1]}"), modes.get(n[1]))]
    wanted = CapturedTables(definitions.metadata, definitions.configured)
    found = []
    for schema, name in names:
        declared = definitions.declared(name, schema)
        if declared is not None and wanted.is_captured(declared) and not wanted.uses_listeners(declared):
            found.append((schema, name))
    return found


def _table_names(connection: Connection, definitions: ReflectedTables) -> list[TableName]:
    """Return the application's tables in the default schema and in the schemas of the metadata.

    Partitions are left out, because their rows belong to the partitioned table.
    """
    inspector = sa.inspect(connection)
    schemas = {t.schema for t in definitions.metadata.tables.values()} if definitions.metadata else set()
    dialect = capture_dialect(connection.dialect)
    found: list[TableName] = []
    for schema in sorted({None, *schemas}, key=str):
        partitions = dialect.partitions(connection, schema or default_schema(connection.dialect))
        found += [(schema, n) for n in inspector.get_table_names(schema) if n not in partitions]
    return [(schema, name) for schema, name in found if is_application_table(name)]


def match_names(names: Iterable[TableName], patterns: Iterable[str], default: str = "") -> list[TableName]:
    """Return the names for which a shell pattern matches ``schema.table`` or ``table``.

    ``default``: the name of the default schema. Raises ConfigurationError for a pattern that matches no name.
    """
    names = list(names)
    selected: dict[TableName, None] = {}
    for pattern in patterns:
        found = [n for n in names if fnmatchcase(f"{n[0] or default}.{n[1]}", pattern) or fnmatchcase(n[1], pattern)]
        if not found:
            known = ", ".join(f"{schema or default}.{name}" for schema, name in names) or "none"
            raise ConfigurationError(f"no table matches {pattern!r}. The tables are: {known}.")
        selected.update(dict.fromkeys(found))
    return list(selected)
