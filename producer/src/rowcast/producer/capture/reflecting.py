"""Capture the tables in a database's catalogue, for a program without named models."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.sql.dml import UpdateBase

from rowcast.producer.capture.dml import inspection
from rowcast.producer.capture.dml.engine_scope import SCHEMA_TRANSLATE_MAP
from rowcast.producer.capture.dml.statement_tables import table_of, unaliased
from rowcast.producer.capture.engine_listeners import EngineListeners
from rowcast.producer.capture.hook import Capture
from rowcast.producer.capture.row_hints import IGNORE, ROWCAST_OPTION
from rowcast.producer.capture.sql_text import changed_names
from rowcast.producer.database import live_listeners
from rowcast.producer.database.dialects.statement_options import INTERNAL_OPTION
from rowcast.producer.tables.captured import CapturedTables
from rowcast.producer.tables.reflection import reflect_tables
from rowcast.producer.tables.schema_translation import Translation
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.tables.own_tables import is_application_table, is_rowcast_table

_log = logging.getLogger("rowcast.instrument")

_Name = tuple[str | None, str]
"""The schema and the name of a table as a statement has them."""

_SPACE = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
_DEFINES = re.compile(rf"{_SPACE}(?:create|alter|drop|rename)\b", re.IGNORECASE | re.DOTALL)
_READS = re.compile(rf"{_SPACE}(?:select|show|pragma|explain|describe|values|set)\b", re.IGNORECASE | re.DOTALL)


def defines_tables(sql: str) -> bool:
    """Return whether the text may change the definition of a table."""
    return _DEFINES.match(sql) is not None


class ReflectingCapture(Capture):
    """Capture all tables of the database, also tables that the program itself creates or alters.

    ``describe`` must be called once, at a connection outside a transaction. From then on the capture reads the
    catalogue again at the first change after a statement that defines tables, at the first statement of an unknown
    MetaData, and at the first statement on an unknown table. A table altered by another process is captured in its old
    form, until this process starts again.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(sa.MetaData(), outbox_in_metadata=False, **options)
        self._configured = options.get("tables")
        self._models: WeakSet[sa.MetaData] = WeakSet()
        self._unknown: set[tuple[str | None, str]] = set()
        self._outdated = False
        self._defines = False
        self._names_are_known = False
        self._logged: list[str] = []
        self._has_defined: WeakSet[Connection] = WeakSet()
        """The connections whose open transaction has defined tables."""
        self._sees_more: WeakSet[Connection] = WeakSet()
        """Those of them that have defined tables since they last read the catalogue."""
        self._reading: WeakSet[Connection] = WeakSet()
        self._watched: WeakSet[Engine] = WeakSet()

    def describe(self, connection: Connection) -> None:
        """Read the tables from the catalogue, on the connection and in its transaction.

        Raises ConfigurationError if a table cannot be captured. The configuration may name tables that do not exist,
        because the program may create them.
        """
        self._outdated = False
        self._sees_more.discard(connection)
        self._reading.add(connection)
        try:
            found = reflect_tables(connection, self._models)
        finally:
            self._reading.discard(connection)
        if any(other is not connection for other in self._has_defined):
            # The tables of another open transaction are not visible here, and its next statement needs them.
            for name, table in self.metadata.tables.items():
                if name not in found.tables:
                    table.to_metadata(found)
        tables = CapturedTables(found, self._configured)
        tables.check_keys()
        self.metadata, self._tables = found, tables
        for listeners in filter(None, map(self._listeners_on, list(self._engines))):
            listeners.replace_tables(tables)

    def _check_names(self) -> None:
        """Raise ConfigurationError before the first change if the configuration names missing tables.

        A program in a migration may still create the missing tables, so a migration only logs the names.
        """
        unknown = self._tables.unknown_names()
        if unknown and not self._defines:
            self._tables.check()
        elif unknown and unknown != self._logged:
            self._logged = unknown
            _log.warning("the configuration names tables that do not exist: %s", ", ".join(unknown))
        self._names_are_known = not unknown

    def _check_tables(self) -> None:
        self._tables.check_keys()

    # -- listening

    def _listen_to(self, engine: Engine) -> EngineListeners:
        engine = getattr(engine, "_proxied", engine)
        if engine not in self._watched:
            self._watched.add(engine)
            # These come first, because the catalogue must be read before the capture looks for a statement's table.
            for name, listener in self._own_events().items():
                live_listeners.listen(engine, name, listener)
        return super()._listen_to(engine)

    def _stop_listening_to(self, engine: Engine) -> None:
        engine = getattr(engine, "_proxied", engine)
        super()._stop_listening_to(engine)
        if engine in self._watched:
            self._watched.discard(engine)
            for name, listener in self._own_events().items():
                live_listeners.remove(engine, name, listener)

    def _own_events(self) -> dict[str, Callable[..., None]]:
        return {
            "before_execute": self._before_execute,
            "before_cursor_execute": self._before_cursor_execute,
            "commit": self._end,
            "rollback": self._end,
            "rollback_savepoint": self._rollback_savepoint,
        }

    def _before_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, execution_options: Any
    ) -> None:
        if statement.__class__ is sa.Select or connection in self._reading or _is_left_out(execution_options):
            return
        dml = inspection.dml_of(inspection.resolved(statement))
        if dml is None:
            return
        table = unaliased(table_of(dml))
        name = _name_of(table)
        if self._is_new(connection, table) or (
            self._is_outdated(connection) and not self._is_version_table(connection, name)
        ):
            self.describe(connection)
            self._remember_unknown(connection, name)
        if not self._names_are_known:
            self._check_names()
        if name is not None:
            self._require_read(connection, name, statement, execution_options.get(SCHEMA_TRANSLATE_MAP))

    def _before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        if connection in self._reading:
            return
        if defines_tables(statement):
            # The rows are read as the statement finds them.
            self.flush(connection)
            self._defines = True
            self._has_defined.add(connection)
            self._sees_more.add(connection)
        elif context is None or _is_left_out(context.execution_options):
            return
        elif not inspection.is_text(context):
            self._refuse_rewritten(connection, inspection.dml_of(context.compiled.statement), statement)
        elif not _READS.match(statement):
            if self._is_outdated(connection):
                self.describe(connection)
                self._check_names()
            for name in _changed_names(statement, connection):
                if self._found(connection, name) is None and name not in self._unknown:
                    # Another process may have created the table.
                    self.describe(connection)
                    self._remember_unknown(connection, name)
                self._require_read(connection, name, statement)

    def _refuse_rewritten(self, connection: Connection, dml: UpdateBase | None, sql: str) -> None:
        """Refuse or warn of a statement whose text a listener of the program has moved to a captured table."""
        name = None if dml is None else _name_of(unaliased(table_of(dml)))
        if name is None or self._found(connection, name) is not None:
            return
        for changed in _changed_names(sql, connection):
            table = self._found(connection, changed)
            if table is not None:
                self._strictness.refuse_or_warn(table.fullname, "text that a listener has rewritten", sql)

    def _is_outdated(self, connection: Connection) -> bool:
        return self._outdated or connection in self._sees_more

    def _is_new(self, connection: Connection, table: Any) -> bool:
        """Return whether the table's MetaData or the table is not known yet."""
        name = _name_of(table)
        if name is None:
            return False
        metadata, found = getattr(table, "metadata", None), self._found(connection, name)
        if metadata is not None and metadata not in self._models:
            self._models.add(metadata)
            # Each operation of a migration has a metadata of its own. Its types count only where the keys need them.
            return found is None or connection not in self._has_defined or _has_other_keys(table, found)
        return found is None and name not in self._unknown

    def _is_version_table(self, connection: Connection, name: _Name | None) -> bool:
        """Return whether this is Alembic's known table, which changes at each step of a migration."""
        return name is not None and not is_application_table(name[1]) and self._found(connection, name) is not None

    def _remember_unknown(self, connection: Connection, name: _Name | None) -> None:
        if name is not None and self._found(connection, name) is None:
            # A temporary table, or a view. The catalogue is not read again at each of its statements.
            self._unknown.add(name)

    def _found(self, connection: Connection, name: _Name) -> sa.Table | None:
        return self._tables.named(*name, default_schema(connection.dialect))

    def _require_read(
        self, connection: Connection, name: _Name, statement: Any, translation: Translation | None = None
    ) -> None:
        """Refuse or warn of a change in a schema that is not read, because no model of the program names the schema."""
        if self._found(connection, name) is not None:
            return
        named, table = name
        schema = translation.get(named, named) if translation else named
        listeners = self._listeners_on(getattr(connection.engine, "_proxied", connection.engine))
        if schema is None and listeners is not None:
            schema = listeners.current_schema(connection, table)
        if schema not in (None, default_schema(connection.dialect)) and not _is_temporary(schema):
            self._strictness.raise_or_warn(
                f"not captured: {schema}.{table} is in a schema that was not read, because no model of the program "
                f"names the schema: {' '.join(str(statement).split())[:300]}. Name the program's models with "
                "--metadata, so that their tables are captured in every schema."
            )

    def _end(self, connection: Connection) -> None:
        if connection in self._has_defined:
            self._has_defined.discard(connection)
            self._sees_more.discard(connection)
            self._unknown.clear()
            self._outdated = True

    def _rollback_savepoint(self, connection: Connection, name: str, context: Any) -> None:
        if connection in self._has_defined:
            self._sees_more.add(connection)


def _is_left_out(execution_options: Mapping[str, Any]) -> bool:
    return INTERNAL_OPTION in execution_options or execution_options.get(ROWCAST_OPTION) == IGNORE


def _changed_names(sql: str, connection: Connection) -> Iterator[_Name]:
    for parts in changed_names(sql, connection.dialect):
        yield parts[-2] if len(parts) > 1 else None, parts[-1]


def _has_other_keys(table: sa.Table, found: sa.Table) -> bool:
    """Return whether the table declares another kind of type for a key column than the catalogue."""
    kinds = {str(column.name): column.type._type_affinity for column in table.columns}
    keys = found.primary_key.columns
    return any(kinds.get(str(key.name), key.type._type_affinity) is not key.type._type_affinity for key in keys)


def _is_temporary(schema: str) -> bool:
    return schema.lower() == "temp" or schema.startswith("pg_temp")


def _name_of(table: Any) -> _Name | None:
    name = getattr(table, "name", None)
    return None if name is None or is_rowcast_table(name) else (getattr(table, "schema", None), str(name))
