"""Write the shapes of captured tables, in or before the first transaction whose lines name them.

At the first change of a table, a process marks the table's shape as the newest. Writing the shape is not enough,
because a rolled back migration brings back an existing shape. A process marks each table once, because otherwise
processes with old and new models would overwrite each other for ever in a rolling deployment. A process marks no table
at start, because the models of unused tables may be outdated.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.capture.notes.transaction_notes import Folded, TransactionNotes
from rowcast.producer.database.existing_tables import existing_tables
from rowcast.producer.outbox.capture_mode import CaptureMode, set_capture_mode
from rowcast.producer.outbox.schema import OutboxTables, missing_parts
from rowcast.producer.outbox.shape_versions import (
    NewShape,
    StoredVersions,
    VersionTimes,
    insert_shapes,
    mark_newest,
    stored_versions,
    tables_with_rows,
)
from rowcast.producer.tables.captured import CapturedTable, CapturedTables
from rowcast.producer.tables.row_filter import check_row_filter
from rowcast.producer.tables.schema_translation import MAX_TRANSLATED_TABLES
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape_store import newest_of

_MAX_REMEMBERED = 100_000
"""The number of tables of which a process remembers that it has marked the shape as the newest."""


class ShapeWriter:
    """Write the shapes of an engine's captured tables, many in one statement.

    Tables under a ``schema_translate_map`` become known at the first change.
    """

    def __init__(
        self,
        outbox: OutboxTables,
        tables: CapturedTables,
        find_captured: Callable[[Connection, sa.Table], CapturedTable | None],
    ) -> None:
        self._outbox = outbox
        self._captured_tables = tables
        self._find_captured = find_captured
        self._table_count = -1
        """The number of tables in the metadata when all shapes were last written."""
        self._committed: set[CapturedTable] = set()
        """The tables that this process has changed, and whose shapes are committed."""
        self._superseded: OrderedDict[tuple[str, str], int | None] = OrderedDict()
        """When each shape was written that was not the newest when this process first changed its table."""

    def are_committed(self, tables: Iterable[CapturedTable]) -> bool:
        """Return whether the shapes of all ``tables`` are known to be committed.

        Return False if the metadata has grown since.
        """
        return self._table_count == len(self._captured_tables.metadata.tables) and self._committed.issuperset(tables)

    def write(
        self,
        connection: Connection,
        notes: TransactionNotes,
        folded: Folded,
    ) -> None:
        """Write missing shapes, and mark the shapes of the changed tables as newest, in the application's transaction.

        Raises ConfigurationError if the outbox is missing or of another version, or if a table's row filter is not
        valid SQL.
        """
        shape, table_count = self._outbox.shape, len(self._captured_tables.metadata.tables)
        # All processes write in the order of names, because otherwise two processes could wait for each other in a
        # circle.
        changed = sorted((table for table in folded if table not in self._committed), key=attrgetter("full_name"))
        whole = self._table_count != table_count
        if whole:
            self._check_outbox(connection)
        stored = stored_versions(connection, shape, None if whole else [table.full_name for table in changed])
        tables = set(changed)
        if whole:
            tables.update(self._unwritten_tables(connection, stored, tables))
        there = {table: stored.versions.get(table.full_name, {}) for table in tables}
        missing = sorted((t for t in tables if t.version not in there[t]), key=attrgetter("full_name"))
        if missing:
            self._write_missing(connection, missing, there, folded)
            notes.shapes_written = True
        for table in changed:
            if table not in missing and self._must_become_newest(table, there[table]):
                mark_newest(connection, shape, table, there[table])
                notes.shapes_written = True
        for table in tables:
            # Take over the tables without capture since the triggers were dropped.
            if stored.captured_by.get(table.full_name) == CaptureMode.nobody:
                set_capture_mode(connection, shape, table.full_name, CaptureMode.listeners)
                notes.shapes_written = True
        # Shapes written by this transaction may be rolled back. Therefore a shape counts only when a later read finds
        # the shape.
        if not notes.shapes_written:
            self._table_count = table_count
            self._remember(changed)

    def _check_outbox(self, connection: Connection) -> None:
        for own in (self._outbox.shape, self._outbox.outbox):
            if lacking := missing_parts(own, connection):
                raise ConfigurationError(
                    f"the capture is installed, but in {connection.engine.url} the table {own.name} {lacking}."
                )

    def _unwritten_tables(
        self, connection: Connection, stored: StoredVersions, known: Iterable[CapturedTable]
    ) -> list[CapturedTable]:
        """Return the existing tables captured by listeners, besides ``known``, of which something must be written."""
        unwritten = []
        for table in self._captured_tables:
            if not self._captured_tables.uses_listeners(table):
                continue
            captured = self._find_captured(connection, table)
            if captured is None or captured in known:
                continue
            is_written = captured.version in stored.versions.get(captured.full_name, ())
            if not is_written or stored.captured_by.get(captured.full_name) == CaptureMode.nobody:
                unwritten.append(captured)
        there = existing_tables(connection, [captured.table for captured in unwritten])
        return [captured for captured in unwritten if captured.table in there]

    def _write_missing(
        self,
        connection: Connection,
        missing: Sequence[CapturedTable],
        there: dict[CapturedTable, VersionTimes],
        folded: Folded,
    ) -> None:
        for table in missing:
            check_row_filter(connection, table)
        new = {table: len(folded.get(table, ())) for table in missing if not there[table]}
        with_rows = tables_with_rows(connection, new)
        shapes = [NewShape(table, max(there[table].values(), default=0), table in with_rows) for table in missing]
        insert_shapes(connection, self._outbox.shape, shapes)

    def _must_become_newest(self, table: CapturedTable, versions: VersionTimes) -> bool:
        """Return whether the table's shape must still be marked as newest.

        It must if a newer shape existed when this process first changed the table, and no process has marked the
        table's shape since. A mark that was rolled back does not count.
        """
        written_at = versions[table.version]
        newest = newest_of(versions)
        identity = table.full_name, table.version
        superseded_at = self._superseded.setdefault(identity, None if table.version == newest else written_at)
        if len(self._superseded) > _MAX_REMEMBERED:
            self._superseded.popitem(last=False)
        return superseded_at == written_at

    def _remember(self, changed: Iterable[CapturedTable]) -> None:
        """Remember that the shapes of changed tables are committed."""
        committed = self._committed.union(changed)
        if len(committed) > len(self._captured_tables.metadata.tables) + 2 * MAX_TRANSLATED_TABLES:
            # The translated tables that are used again are found again.
            own = self._captured_tables.metadata
            committed = {table for table in committed if table.table.metadata is own}.union(changed)
        self._committed = committed
