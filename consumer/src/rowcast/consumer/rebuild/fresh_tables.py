"""Fill tables from the topics, by a separate worker, and compare the tables with the primary."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy.engine import Engine

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.rebuild.first_pass.load import FirstPass
from rowcast.consumer.rebuild.first_pass.target import FreshTarget
from rowcast.consumer.rebuild.last_end import last_committed_end
from rowcast.consumer.rebuild.progress import ReadRecords, RebuildStoppedError
from rowcast.consumer.rebuild.topics import read_topics
from rowcast.consumer.replica.dialects import TableNaming
from rowcast.consumer.replica.positions import ReplicaRow, read_positions, read_row
from rowcast.consumer.verification.comparison import verify_tables
from rowcast.consumer.verification.results import VerifyResult, VerifyStoppedError
from rowcast.consumer.worker.assignment import Assignment
from rowcast.consumer.worker.main_loop import run_assigned
from rowcast.consumer.worker.progress import OnWorkerProgress, WorkerProgress
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.topic_names import transaction_topic

_log = logging.getLogger("rowcast.rebuild")

# The topics' ends move while the tables are filled. A pass shorter than this has caught up.
_CAUGHT_UP_S = 5.0
_MOST_PASSES = 20
_ACTIVE_POLL_S = 0.05


class FreshTables:
    """The tables that a rebuild fills.

    ``source``: the value of ``source`` in the worker's tables. ``naming``: the names of the tables. ``skip``: see
    ``run_worker``. ``processes``: see ``FirstPass``. The tables and positions stay in the database when the rebuild is
    interrupted.
    """

    def __init__(
        self,
        settings: Settings,
        replica: str,
        source: str,
        naming: TableNaming,
        records: ReadRecords,
        stop: threading.Event,
        skip: Sequence[str] = (),
        processes: int | None = 1,
    ) -> None:
        self._settings = settings
        self._replica = replica
        self._source = source
        self._naming = naming
        self._records = records
        self._stop = stop
        self._skip = skip
        self._first_pass = FirstPass(FreshTarget(settings, replica, source, naming, skip), records, stop, processes)
        self._assignment = Assignment(
            source,
            naming,
            lambda: records,
            command=f"rowcast rebuild {replica}",
            rebuild_command=f"rowcast rebuild {replica} --restart",
            is_shared=False,
        )

    def load(self, engine: Engine) -> None:
        """Read the topics up to their ends, again and again until little is left. Raise DataError if rows are missing.

        Raise RebuildStoppedError.
        """
        is_first = not self._first_pass.run(engine)
        for _ in range(_MOST_PASSES):
            began = time.monotonic()
            self.catch_up(engine, first=is_first)
            is_first = False
            if time.monotonic() - began < _CAUGHT_UP_S:
                break

    def load_until(self, engine: Engine, lsn: int) -> None:
        """Read the topics up to an lsn. Raise as ``load``."""
        self.catch_up(engine, first=True, until_lsn=lsn)

    def catch_up(self, engine: Engine, *, first: bool = False, until_lsn: int | None = None) -> ReplicaRow:
        """Read the topics up to the present ends, or to an lsn. Return the row of the fresh tables, now consistent."""
        layouts, positions = RowLayouts(self._settings.replica(self._replica).tables), self._positions(engine)
        self._records.resume(positions)
        self._records.begin("loading" if first else "catching up", read_topics(self._settings, layouts))
        # A load up to the present ends needs no END from before.
        needs_ends = until_lsn is not None or (transaction_topic(self._settings.source), 0) in positions
        first_positions = {} if needs_ends else last_committed_end(self._settings)
        assignment = replace(self._assignment, until_lsn=until_lsn, first_positions=first_positions)
        self._run(assignment, once=True, stop=self._stop)
        if self._stop.is_set():
            raise RebuildStoppedError(self._replica)
        with engine.connect() as connection:
            row = read_row(connection, self._source)
        if row is None or not layouts.table_shapes():
            raise DataError(
                f"the topics of source {self._settings.source} have no tables yet. Start the relay, and publish rows "
                "with rowcast snapshot."
            )
        if row.state != "consistent":
            raise DataError(
                "the fresh tables are not consistent: the log says which snapshot is not complete, or which constraint "
                f"rows violate. Correct this, and run rowcast rebuild {self._replica} again."
            )
        return row

    def _positions(self, engine: Engine) -> dict[tuple[str, int], int]:
        with engine.connect() as connection:
            return {place: p.next_offset for place, p in read_positions(connection, self._source).items()}

    def verify(self) -> int:
        """Compare the tables with the primary while a worker follows the topics. Return the number of equal rows.

        Raise DataError if rows differ, or if the fresh tables are late. Raise RebuildStoppedError.
        """
        self._records.begin("verifying")
        with self._followed():
            try:
                result = verify_tables(self._settings, self._replica, self._naming, self._source, stop=self._stop)
            except VerifyStoppedError:
                raise RebuildStoppedError(self._replica) from None
        _require_equal(result, self._replica)
        return result.rows

    @contextmanager
    def _followed(self) -> Iterator[None]:
        """Let a worker follow the topics during the block, on a thread."""
        stop, active = threading.Event(), threading.Event()
        failures: list[BaseException] = []

        def note(progress: WorkerProgress) -> None:
            if progress.active:
                active.set()

        def follow() -> None:
            try:
                self._run(self._assignment, once=False, stop=stop, on_progress=note)
            except BaseException as error:  # noqa: BLE001  # raised below, on the caller's thread
                failures.append(error)

        thread = threading.Thread(target=follow, name="rowcast-fresh-tables", daemon=True)
        thread.start()
        try:
            while thread.is_alive() and not active.wait(_ACTIVE_POLL_S):
                pass
            yield
        finally:
            stop.set()
            thread.join()
        if failures:
            raise failures[0]

    def _run(
        self,
        assignment: Assignment,
        *,
        once: bool,
        stop: threading.Event,
        on_progress: OnWorkerProgress | None = None,
    ) -> None:
        run_assigned(
            self._settings,
            self._replica,
            assignment,
            once=once,
            stop=stop,
            on_progress=on_progress,
            skip=self._skip,
        )


def _require_equal(result: VerifyResult, replica: str) -> None:
    """Raise DataError if the fresh tables differ from the primary."""
    differing = [
        f"{t.table}: {t.missing} missing, {t.extra} extra, {t.different} different"
        for t in result.tables
        if t.differing
    ]
    if differing:
        raise DataError(
            f"the topics do not give the rows that the primary has ({', '.join(differing)}), so the tables of replica "
            f"{replica!r} stay as they are. Publish all rows again: "
            f"rowcast rebuild {replica} --snapshot"
        )
    if result.verdict == "behind":
        raise DataError(
            f"the fresh tables cannot be compared, because {result.reason}. The tables of replica {replica!r} stay as "
            f"they are. Then run rowcast rebuild {replica} again, or with --no-verify."
        )
