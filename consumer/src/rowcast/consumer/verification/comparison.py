"""``rowcast verify``: compare primary and replica row by row, while both are live.

``table_scan`` finds the rows that seem to differ. ``settlement`` compares the found rows at one position of the source.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rowcast.consumer.events.row_layout import RowLayout, matches_any
from rowcast.consumer.replica.dialects import LIVE, TableNaming
from rowcast.consumer.replica.promoted import require_not_promoted
from rowcast.consumer.verification.buckets import buckets_for
from rowcast.consumer.verification.catching_up import CatchingUp
from rowcast.consumer.verification.compared_database import ComparedDatabase
from rowcast.consumer.verification.compared_table import ComparedTable
from rowcast.consumer.verification.readers import readers_for
from rowcast.consumer.verification.results import (
    Difference,
    OnVerifyProgress,
    TableResult,
    VerifyProgress,
    VerifyResult,
)
from rowcast.consumer.verification.row_forms import RowForms
from rowcast.consumer.verification.settlement import Settlement
from rowcast.consumer.verification.table_scan import TableScan
from rowcast.consumer.views.replica_view import ReplicaView
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_store import written_shapes

WAIT_S = 30.0
"""How long a comparison waits for the relay and the worker, unless the caller says otherwise."""

# Comparing a table stops at this number of differences.
_MAX_DIFFERENCES = 10_000


def verify(
    settings: Settings,
    replica: str,
    *,
    tables: Sequence[str] | None = None,
    on_progress: OnVerifyProgress | None = None,
    wait_s: float = WAIT_S,
    max_rate: int | None = None,
    stop: threading.Event | None = None,
) -> VerifyResult:
    """Compare the replica's tables with the primary's. ``tables``: shell patterns to choose tables.

    ``on_progress`` is called after every page of rows. ``wait_s``: how long to wait for a replica that is behind, in
    all. ``max_rate``: the greatest number of rows to read in a second from each side. ``stop``: set to end early.

    Raise ConfigurationError and UnreachableError. Raise VerifyStoppedError if stopped.
    """
    return verify_tables(
        settings,
        replica,
        LIVE,
        settings.source,
        tables=tables,
        on_progress=on_progress,
        wait_s=wait_s,
        max_rate=max_rate,
        stop=stop,
    )


def verify_tables(
    settings: Settings,
    replica: str,
    naming: TableNaming,
    recorded_as: str,
    *,
    tables: Sequence[str] | None = None,
    on_progress: OnVerifyProgress | None = None,
    wait_s: float = WAIT_S,
    max_rate: int | None = None,
    stop: threading.Event | None = None,
) -> VerifyResult:
    """Compare the tables with the names of ``naming`` in the replica. See ``verify``.

    ``recorded_as``: the source of the tables' recorded positions.
    """
    options = settings.replica(replica)
    primary = ComparedDatabase(settings.require_primary(), "primary")
    other = ComparedDatabase(options, f"replica {replica!r}", naming)
    try:
        require_not_promoted(other.engine, settings.source, replica)
        shapes = [s for s in written_shapes(primary.engine) if matches_any(s.full_name, options.tables)]
        chosen = [s for s in shapes if tables is None or matches_any(s.full_name, tables)]
        if tables is not None and not chosen:
            names = ", ".join(s.full_name for s in shapes) or "none"
            raise ConfigurationError(f"no table matches {', '.join(tables)}. Choose among the tables {names}")
        stop = stop or threading.Event()
        catching_up = CatchingUp(primary, other, recorded_as, wait_s, stop)
        view = ReplicaView(options, {shape.full_name: shape for shape in shapes}.get)
        return _Comparison(settings, primary, other, view, catching_up, on_progress, max_rate, stop).run(chosen)
    finally:
        primary.close()
        other.close()


@dataclass(frozen=True, slots=True)
class ComparedPair:
    """A table on both sides, and the forms in which the values are compared."""

    primary: ComparedTable
    replica: ComparedTable
    forms: RowForms
    view: ReplicaView

    @classmethod
    def of(
        cls, primary: ComparedDatabase, replica: ComparedDatabase, shape: TableShape, settings: Settings,
        view: ReplicaView,
    ) -> ComparedPair:  # fmt: skip
        """Look the table up on both sides. ``view``: the view of the replica.

        Raise ConfigurationError as ``ComparedTable``, and for a view that does not fit the table.
        """
        options, viewed = settings.table(shape), view.viewed(shape).shape
        rows = view.rows(RowLayout(shape, tuple(column.name for column in shape.columns)))
        return cls(
            ComparedTable(primary, shape, is_replica=False, settings=options, rows=rows),
            ComparedTable(replica, viewed, is_replica=True, settings=options),
            RowForms(viewed),
            view,
        )

    def settlement(self, settings: Settings, catching_up: CatchingUp) -> Settlement:
        """Return the settlement of the rows that seem to differ."""
        return Settlement(self.primary, self.replica, self.forms, self.view, settings, catching_up)


class _Comparison:
    """Compare the tables of both databases in turn."""

    def __init__(
        self,
        settings: Settings,
        primary: ComparedDatabase,
        replica: ComparedDatabase,
        view: ReplicaView,
        catching_up: CatchingUp,
        on_progress: OnVerifyProgress | None,
        max_rate: int | None,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._primary = primary
        self._replica = replica
        self._view = view
        self._catching_up = catching_up
        self._on_progress = on_progress
        self._max_rate = max_rate
        self._stop = stop
        self._began = time.monotonic()
        self._rows = self._of = self._differing = 0
        self._reason: str | None = None

    def run(self, shapes: Sequence[TableShape]) -> VerifyResult:
        """Return the results of all tables."""
        pairs = [ComparedPair.of(self._primary, self._replica, shape, self._settings, self._view) for shape in shapes]
        self._of = sum(pair.primary.estimate_rows() for pair in pairs)
        results = tuple(map(self._compare, pairs))
        return VerifyResult(results, self._reason)

    def _compare(self, pair: ComparedPair) -> TableResult:
        name = pair.primary.shape.full_name
        buckets = buckets_for(pair.primary, pair.forms)
        settlement = pair.settlement(self._settings, self._catching_up)
        settlement.reason = self._reason

        def on_rows(rows: int) -> None:
            self._rows += rows
            self._report(name)

        readers = readers_for(pair.primary, pair.replica, buckets, pair.forms)
        scan = TableScan(*readers, buckets, on_rows, self._max_rate, self._stop)
        found: list[Difference] = []
        behind, stopped = 0, False
        for suspects in scan.suspects():
            settled = settlement.settle(suspects.values())
            found += settled.differences
            behind += settled.behind
            self._differing += len(settled.differences)
            self._report(name)
            if stopped := len(found) >= _MAX_DIFFERENCES:
                break
        self._reason = settlement.reason
        view = pair.replica.shape.view
        result = table_result(name, scan.rows, found, behind, stopped)
        return result if view is None else replace(result, view=view.lacking)

    def _report(self, table: str) -> None:
        if self._on_progress is not None:
            seconds = time.monotonic() - self._began
            self._on_progress(VerifyProgress(table, self._rows, max(self._of, self._rows), self._differing, seconds))


def table_result(name: str, rows: int, found: list[Difference], behind: int, stopped: bool) -> TableResult:
    """Return the result of a table with its differences counted."""
    counts = Counter(difference.kind for difference in found)
    return TableResult(
        name,
        rows,
        missing=counts["missing"],
        extra=counts["extra"],
        different=counts["different"],
        differences=tuple(found),
        stopped=stopped,
        behind=behind,
    )
