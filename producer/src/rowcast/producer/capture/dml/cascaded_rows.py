"""Find the captured rows changed by a statement through the actions of foreign keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.capture.dml.engine_scope import SCHEMA_TRANSLATE_MAP, EngineScope
from rowcast.producer.capture.dml.foreign_key_actions import ForeignKeyActions, is_in_primary_key
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.database.row_locks import Key
from rowcast.producer.tables.captured import CapturedTable


class CascadedRows:
    """Find and lock the cascaded rows of an engine's statements."""

    def __init__(self, scope: EngineScope) -> None:
        self._scope = scope
        self._actions = ForeignKeyActions(scope.metadata)
        self._table_count = len(scope.metadata.tables)

    @property
    def actions(self) -> ForeignKeyActions:
        """Return the actions of the metadata's foreign keys. Read the foreign keys again if the metadata has grown."""
        if self._table_count != len(self._scope.metadata.tables):
            self._table_count = len(self._scope.metadata.tables)
            self._actions = ForeignKeyActions(self._scope.metadata)
        return self._actions

    def lock(
        self,
        connection: Connection,
        pending: PendingStatement,
        constraints: Sequence[sa.ForeignKeyConstraint],
        keys: Sequence[Key],
        *,
        delete: bool,
    ) -> None:
        """Lock the rows that change with ``keys`` through ``constraints``, as side effects of the statement.

        ``delete``: the rows of ``keys`` are deleted, not updated. Refuse or warn of SET DEFAULT into a primary key,
        because only the database knows the new key.
        """
        for constraint in constraints:
            action = (constraint.ondelete if delete else constraint.onupdate) or ""
            child = self._find_captured(connection, pending, constraint.table)
            if child is not None and action.upper() == "SET DEFAULT" and is_in_primary_key(constraint):
                self._scope.strictness.refuse_or_warn(
                    child.full_name, "SET DEFAULT into its primary key", str(pending.statement)
                )
        for child, found in self.find(connection, pending, constraints, keys, delete=delete):
            pending.add_side_effect(child, found)

    def find(
        self,
        connection: Connection,
        pending: PendingStatement,
        constraints: Sequence[sa.ForeignKeyConstraint],
        keys: Sequence[Key],
        *,
        delete: bool,
    ) -> Iterator[tuple[CapturedTable, Sequence[Key]]]:
        """Yield, by captured table, the keys of the rows changed with ``keys`` through ``constraints``.

        The rows are locked.
        """
        found = self.actions.find_rows(
            connection,
            constraints,
            keys,
            pending.options,
            delete=delete,
            before_reading=lambda table: self._refuse_hidden(connection, pending, table),
        )
        for table, child_keys in found:
            captured = self._find_captured(connection, pending, table)
            if captured is not None:
                yield captured, child_keys

    def _refuse_hidden(self, connection: Connection, pending: PendingStatement, table: sa.Table) -> None:
        captured = self._find_captured(connection, pending, table)
        if captured is not None:
            self._scope.row_security.refuse_hidden(connection, captured)

    def _find_captured(
        self, connection: Connection, pending: PendingStatement, table: sa.Table
    ) -> CapturedTable | None:
        return self._scope.find_captured(connection, table, pending.options[SCHEMA_TRANSLATE_MAP])
