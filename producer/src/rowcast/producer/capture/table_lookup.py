"""Find the captured table for the table of a statement."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect

from rowcast.producer.capture.dml.statement_tables import unaliased
from rowcast.producer.capture.other_schemas import OtherSchemas
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.capture_mode import TriggerCapturedTables
from rowcast.producer.tables.captured import CapturedTable, CapturedTables
from rowcast.producer.tables.schema_translation import SchemaTranslation, Translation
from rowcast.shared.database.schema_names import default_schema


class TableLookup:
    """Find the captured tables of an engine, and remember what was found for each name.

    A statement may name a table by another object, by an alias, under a ``schema_translate_map``, or after SQL text has
    changed the schema of the connection.
    """

    def __init__(
        self,
        captured: CapturedTables,
        by_triggers: TriggerCapturedTables,
        other_schemas: OtherSchemas,
        dialect: Dialect,
    ) -> None:
        self._captured = captured
        self._by_triggers = by_triggers
        self._other_schemas = other_schemas
        self._translation = SchemaTranslation(captured, dialect)
        self._tables: dict[tuple[str | None, str], CapturedTable | None] = {}
        self._table_count = 0

    def find_captured(
        self, connection: Connection, table: Any, translation: Translation | None = None
    ) -> CapturedTable | None:
        """Return the captured table for a statement's table under the ``schema_translate_map``.

        Return None if the table is not captured, or captured by triggers.
        """
        own = self.find_untranslated(connection, table)
        if own is None:
            return None
        schema, found = unaliased(table).schema, own
        # Otherwise the statement names the table's default schema, and the map does not move the default schema.
        if translation and (schema == own.table.schema or schema in translation):
            found = self._translation.translate(own, translation, default_schema(connection.dialect))
        if found is own and schema is None and self._other_schemas.may_be_changed(connection):
            current = self._other_schemas.schema_of(connection, str(own.table.name))
            found = self._translation.translate(own, {None: current}, default_schema(connection.dialect))
        return found

    def find_untranslated(self, connection: Connection, table: Any) -> CapturedTable | None:
        """Return the captured table for a statement's table without a ``schema_translate_map``, or None."""
        table = unaliased(table)
        if self._table_count != len(self._captured.metadata.tables):
            # A model that was imported since may be of a table that was not captured before.
            self._table_count = len(self._captured.metadata.tables)
            self._tables = {name: found for name, found in self._tables.items() if found is not None}
        name = (getattr(table, "schema", None), getattr(table, "name", None))
        try:
            return self._tables[name]  # type: ignore[index]
        except KeyError:
            found = self._tables[name] = self._find_in_metadata(connection, table)  # type: ignore[index]
            return found

    def _find_in_metadata(self, connection: Connection, table: Any) -> CapturedTable | None:
        own = self.find_declared(connection, table)
        if own is None or not self._captured.is_captured(own):
            return None
        if (own.schema, own.name) != (table.schema, table.name):
            # Two names of a table must lead to the same captured table.
            return self.find_untranslated(connection, own)
        found = self._captured.captured_table(own, connection.dialect, default_schema(connection.dialect))
        by_triggers = self._by_triggers.contains(connection, found, self._captured.settings(own))
        return None if by_triggers else found

    def find_declared(self, connection: Connection, table: Any) -> sa.Table | None:
        """Return the metadata's table for a statement's table, captured or not, or None."""
        table, dialect = unaliased(table), connection.dialect
        schema, name = getattr(table, "schema", None), getattr(table, "name", None)
        if name is None:
            # A join has no name.
            return None
        fold = capture_dialect(dialect).folded_table_name
        return self._captured.named(schema, name, default_schema(dialect), lambda name: fold(name, dialect))
