"""The view of a replica: the columns, names, rows and masks of each table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

from rowcast.consumer.events.row_layout import RowLayout, RowLayouts
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.views.row_view import RowView
from rowcast.consumer.views.table_view import TableView, fit_view
from rowcast.consumer.views.unused import unused_names
from rowcast.consumer.views.viewed_shape import ViewedShape, viewed_shape
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.view_settings import ViewSettings
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.shape import TableShape

_log = logging.getLogger("rowcast.worker")

Newest = Callable[[str], TableShape | None]
"""Return the newest shape of ``schema.table`` at the source. Return None for an unknown table."""


class UnviewableError(DataError):
    """A value that the condition of a view cannot compare. ``before``: the earlier transactions, unchanged."""

    def __init__(self, error: DataError, before: Run) -> None:
        super().__init__(str(error))
        self.skip = error.skip
        self.before = before


class ReplicaView:
    """Turn shapes and changes of the source into the replica's shapes and changes.

    ``newest``: the newest shapes at the source. ``warns``: log the unused names in views. Methods raise
    ConfigurationError for an unsuitable view.
    """

    def __init__(self, settings: ReplicaSettings, newest: Newest, *, warns: bool = False) -> None:
        self._settings = settings.view
        self._key = None if settings.mask_key is None else settings.mask_key.get_secret_value().encode()
        self._newest = newest
        self._warns = warns
        self._warned: set[str] = set()
        self._fitted: dict[str, tuple[TableShape, TableView | None]] = {}
        self._shapes: dict[str, tuple[TableShape, ViewedShape]] = {}
        self._rows: dict[RowLayout, tuple[TableShape, RowView | None]] = {}

    def __bool__(self) -> bool:
        """Return whether any table has a view."""
        return bool(self._settings)

    def shapes(self, shapes: Iterable[TableShape]) -> list[TableShape]:
        """Return the shapes of the replica's tables for newest shapes of the source."""
        found = list(shapes)
        if not self or not found:
            return found
        if self._warns:
            self._warn_of_unused(found)
        return [self.viewed(shape).shape for shape in found]

    def _warn_of_unused(self, shapes: list[TableShape]) -> None:
        for unused in unused_names(self._settings, shapes):
            if unused not in self._warned:
                self._warned.add(unused)
                _log.warning("%s", unused)

    def viewed(self, shape: TableShape) -> ViewedShape:
        """Return the shape of the replica's table for the newest shape of the source, and the missing constraints."""
        known = self._shapes.get(shape.full_name)
        found = viewed_shape(shape, self.fitted(shape), self)
        # The earlier object for an equal shape, because layouts are compared by it.
        if known is not None and known[0] is shape and known[1] == found:
            return known[1]
        for constraint in found.left_out:
            _log.info("table %s: the replica does not have %s", shape.full_name, constraint)
        self._shapes[shape.full_name] = shape, found
        return found

    def of_table(self, full_name: str) -> TableView | None:
        """Return the view of a table, or None without a view, or while the shape is unknown."""
        shape = self._newest(full_name)
        return None if shape is None else self.fitted(shape)

    def fitted(self, shape: TableShape) -> TableView | None:
        """Return the view fitted to the newest shape of a table, or None."""
        known = self._fitted.get(shape.full_name)
        if known is None or known[0] is not shape:
            settings, is_pattern = self._settings_of(shape)
            view = None if settings is None else fit_view(settings, shape, self._key, is_pattern=is_pattern)
            known = self._fitted[shape.full_name] = shape, view
        return known[1]

    def _settings_of(self, shape: TableShape) -> tuple[ViewSettings | None, bool]:
        """Return the settings of a table, and whether a pattern has found them.

        The table's own name wins, and then a former name, because a renamed table must not lose its masks.
        """
        names = (shape.full_name, *shape.was)
        if (own := next((name for name in names if name in self._settings), None)) is not None:
            return self._settings[own], False
        found = [pattern for pattern in self._settings if any(fnmatchcase(name, pattern) for name in names)]
        if len(found) > 1:
            raise ConfigurationError(
                f"the view of {shape.full_name}: both {' and '.join(found)} match. Give the table a view of its own"
            )
        return (self._settings[found[0]], True) if found else (None, False)

    def run(self, run: Run) -> Run:
        """Return the run with the replica's changes. Raise UnviewableError for an event that cannot be viewed."""
        viewed: list[Transaction] = []
        for transaction in run.transactions:
            try:
                viewed.append(self.transaction(transaction))
            except DataError as error:
                raise UnviewableError(error, Run(run.transactions[: len(viewed)])) from error
        return Run(viewed)

    def transaction(self, transaction: Transaction) -> Transaction:
        """Return the transaction with the replica's changes. Raise DataError for an event that cannot be viewed."""
        views = {layout: view for layout in transaction.layouts() if (view := self.rows(layout)) is not None}
        if not views:
            return transaction
        changes = (
            change if (view := views.get(change.layout)) is None else view.change(change)
            for change in transaction.changes
        )
        is_spilled = isinstance(transaction.changes, SpilledChanges)
        viewed = SpilledChanges(transaction.id, changes) if is_spilled else list(changes)
        return replace(transaction, changes=viewed)

    def rows(self, layout: RowLayout) -> RowView | None:
        """Return the view of rows of a layout, or None for unchanged rows."""
        newest = self._newest(layout.table) or layout.shape
        known = self._rows.get(layout)
        if known is None or known[0] is not newest:
            view = self.fitted(newest)
            rows = None if view is None else RowView(layout, view, newest, self.viewed(newest).shape)
            if rows is not None and rows.changes_nothing:
                rows = None
            known = self._rows[layout] = newest, rows
        return known[1]


def replica_shapes(settings: ReplicaSettings, layouts: RowLayouts) -> list[TableShape]:
    """Return the shapes of a replica's tables, for the shapes that have been read into ``layouts``."""
    return ReplicaView(settings, layouts.latest).shapes(layouts.table_shapes())
