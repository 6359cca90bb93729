"""Give the events under a former name of a table the table's present name.

Reading knows the events by their names at the source, because an END counts by these names. The replica has a single
table for both names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.shared.tables.shape import TableShape


class RenamedTables:
    """Know the present name of each former name."""

    def __init__(self) -> None:
        self.names: Mapping[str, str] = {}
        self._shapes: Mapping[str, TableShape] = {}
        self._layouts: dict[RowLayout, RowLayout] = {}

    def set(self, names: Mapping[str, str], shapes: Mapping[str, TableShape]) -> None:
        """Take the present names by the former names, and the newest shapes by the present names."""
        self.names = {former: name for former, name in names.items() if name in shapes}
        self._shapes = shapes
        self._layouts.clear()

    def layout(self, layout: RowLayout) -> RowLayout:
        """Return the layout with the present name of its table. Columns keep their names."""
        if layout.table not in self.names:
            return layout
        found = self._layouts.get(layout)
        if found is None:
            present = self._shapes[self.names[layout.table]]
            shape = layout.shape.named_as(present)
            found = self._layouts[layout] = RowLayout(shape, layout.columns, layout.keeps_others)
        return found

    def run(self, run: Run) -> Run:
        """Return the run with the present names of all tables."""
        if not self.names:
            return run
        return Run([self.transaction(transaction) for transaction in run.transactions])

    def transaction(self, transaction: Transaction) -> Transaction:
        """Return the transaction with the present names of all tables."""
        unread = [event._replace(table=self._name(event.table)) for event in transaction.unread]
        changes = transaction.changes
        if isinstance(changes, SpilledChanges):
            changes.replace_layouts(self.layout)
        elif any(layout.table in self.names for layout in transaction.layouts()):
            changes = [change._replace(layout=self.layout(change.layout)) for change in changes]
        return replace(transaction, changes=changes, unread=unread)

    def _name(self, table: str | None) -> str | None:
        return None if table is None else self.names.get(table, table)
