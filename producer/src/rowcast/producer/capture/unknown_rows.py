"""Apply the row hints of statements with unknown rows, and refuse or warn of the statements without a hint.

The rows are unknown if the statement is SQL text or was compiled beforehand, or if it changes a captured table through
a join or through a foreign key of a table that is not captured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Compiled, Connection
from sqlalchemy.sql.dml import UpdateBase

from rowcast.producer.capture.dml import inspection
from rowcast.producer.capture.dml.engine_scope import SCHEMA_TRANSLATE_MAP, EngineScope
from rowcast.producer.capture.dml.statement_tables import other_tables_changed, table_of
from rowcast.producer.capture.dml.tracker import DmlTracker
from rowcast.producer.capture.dml.uncaptured_parents import (
    changed_children,
    children_changed_by_text,
    emptied_by_cascade,
)
from rowcast.producer.capture.notes.open_transactions import OpenTransactions
from rowcast.producer.capture.row_hints import IGNORE, ROWCAST_OPTION, apply_row_hint, note_all_rows, row_hint_of
from rowcast.producer.capture.sql_text import calls_code, changed_tables, truncated_tables, words_of
from rowcast.producer.capture.temporary_tables import refuse_hiding
from rowcast.producer.capture.transaction_check import TransactionCheck
from rowcast.producer.capture.transaction_ends import TransactionEnds
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.dialects.statement_options import INTERNAL_OPTION
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.errors import CaptureError

_THROUGH_FOREIGN_KEY = "a foreign key of a table that is not captured"


class UnknownRows:
    """Hint, refuse or warn for the statements of an engine. ``tracker``: knows the actions of foreign keys."""

    def __init__(
        self,
        scope: EngineScope,
        transactions: OpenTransactions,
        check: TransactionCheck,
        ends: TransactionEnds,
        tracker: DmlTracker,
    ) -> None:
        self._scope = scope
        self._find_captured = scope.find_captured
        self._transactions = transactions
        self._check = check
        self._ends = ends
        self._tracker = tracker

    def refuse_or_hint_others(
        self, connection: Connection, dml: UpdateBase, sets: inspection.Parameters, options: Mapping[str, Any]
    ) -> None:
        """Find captured tables that a statement changes although it is not on a captured table.

        Apply the row hint, and refuse or warn of each captured table without a hint.
        """
        # DML in a CTE may have changed the rows of the hint.
        hinted = self.apply_hint(connection, options) if ROWCAST_OPTION in options else set()
        if hinted is None:
            return
        if isinstance(table_of(dml), sa.Join):
            what, others = "an UPDATE of a join", set(other_tables_changed(dml))
        else:
            parent = self._scope.find_declared(connection, table_of(dml))
            what, others = _THROUGH_FOREIGN_KEY, changed_children(self._tracker.actions, parent, dml, sets)
        self._refuse_captured(connection, others - hinted, options, what, dml)

    def refuse_or_hint_compiled(self, connection: Connection, compiled: Compiled, options: Mapping[str, Any]) -> None:
        """Apply the row hint of a statement compiled beforehand.

        Refuse or warn of a statement without a hint. SQLAlchemy 2.0 executes a compiled statement, and the capture can
        add nothing more.
        """
        dml = inspection.dml_of(compiled.statement)
        if dml is None or INTERNAL_OPTION in options:
            return
        table = self._find_captured(connection, table_of(dml), options.get(SCHEMA_TRANSLATE_MAP))
        if table is None:
            self.refuse_or_hint_others(connection, dml, [compiled.params], options)
            return
        self._check.check(connection, table, self._transactions.get_or_create(connection))
        if ROWCAST_OPTION in options:
            self.apply_hint(connection, options)
        else:
            what = "a statement that was compiled beforehand"
            self._refuse_or_warn(connection, table, what, str(compiled))

    def refuse_or_hint_text(self, connection: Connection, sql: str, options: Mapping[str, Any]) -> None:
        """Apply the row hint of SQL text. Refuse or warn of the text for each changed table without a hint."""
        refuse_hiding(connection, sql, options, self._scope)
        hinted = self.apply_hint(connection, options) if ROWCAST_OPTION in options else set()
        if hinted is None:
            return
        if hinted and self._ends.ends(connection, sql):
            raise CaptureError(
                f"{', '.join(table.fullname for table in hinted)}: the text commits the transaction by itself, so a "
                f"change and its outbox row could not be in one transaction: {sql[:300]}. Use DML, such as DELETE in "
                "place of TRUNCATE, and commit afterwards."
            )
        hinted = hinted or self._note_truncate(connection, sql, options)
        if not hinted and calls_code(sql, connection.dialect):
            self._scope.strictness.refuse_or_warn_of_call(sql, may_commit=self._ends.ends(connection, sql))
            self._transactions.get_or_create(connection).note_unseen_change()
        named = [
            t for t in changed_tables(sql, self._scope.metadata.tables.values(), connection.dialect) if t not in hinted
        ]
        others = self._refuse_captured(connection, named, options, "SQL text", sql)
        words = words_of(sql, connection.dialect) if others else frozenset()
        for table in others:
            children = children_changed_by_text(self._tracker.actions, table, words)
            self._refuse_captured(connection, children - hinted, options, _THROUGH_FOREIGN_KEY, sql)

    def _note_truncate(self, connection: Connection, sql: str, options: Mapping[str, Any]) -> set[sa.Table]:
        """Note all rows of the captured tables that a TRUNCATE empties. Return the tables, or nothing for other text.

        The tables are locked now, so that no row comes before the TRUNCATE.
        """
        found = truncated_tables(sql, self._scope.metadata.tables.values(), connection.dialect)
        if found is None or options.get(SCHEMA_TRANSLATE_MAP):
            return set()
        named, cascades = found
        emptied = dict.fromkeys(named)
        if cascades:
            emptied |= {child: None for table in named for child in emptied_by_cascade(self._tracker.actions, table)}
        captured = {table: one for table in emptied if (one := self._find_captured(connection, table, None))}
        if not captured or not capture_dialect(connection.dialect).lock_for_truncate(connection, list(captured)):
            return set()
        notes = self._transactions.get_or_create(connection)
        for one in captured.values():
            self._check.check(connection, one, notes)
            self._scope.row_security.refuse_hidden(connection, one)
        if not all(note_all_rows(connection, one, notes) for one in captured.values()):
            return set()
        return set(captured)

    def _refuse_captured(
        self, connection: Connection, tables: Iterable[sa.Table], options: Mapping[str, Any], what: str, statement: Any
    ) -> list[sa.Table]:
        """Refuse or warn of the statement for each captured table. Return the tables that are not captured."""
        others = []
        for table in tables:
            captured = self._find_captured(connection, table, options.get(SCHEMA_TRANSLATE_MAP))
            if captured is None:
                others.append(table)
            else:
                self._refuse_or_warn(connection, captured, what, str(statement))
        return others

    def _refuse_or_warn(self, connection: Connection, table: CapturedTable, what: str, sql: str) -> None:
        self._scope.strictness.refuse_or_warn(table.full_name, what, sql)
        self._transactions.get_or_create(connection).note_unseen_change()

    def apply_hint(self, connection: Connection, options: Mapping[str, Any]) -> set[sa.Table] | None:
        """Note the rows named by the option. Return the tables, or None if the statement is not to be captured."""
        if options[ROWCAST_OPTION] == IGNORE:
            self._transactions.get_or_create(connection).note_unseen_change()
            return None
        hint = row_hint_of(options[ROWCAST_OPTION])
        for table, keys in hint.items():
            captured = self._find_captured(connection, table, options.get(SCHEMA_TRANSLATE_MAP))
            if captured is not None:
                notes = self._transactions.get_or_create(connection)
                self._check.check(connection, captured, notes)
                self._scope.row_security.refuse_hidden(connection, captured)
                apply_row_hint(connection, captured, keys, notes)
        return set(hint)
