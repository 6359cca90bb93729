"""Rebuild a replica from the topics: beside the live tables, or in another database.

look ──▶ fill fresh tables ──▶ add indexes and rights ──▶ verify ──▶ swap ──▶ drop the old tables

The position of the fresh tables is in the replica, beside the position of the live tables. Therefore a rebuild goes on
after any kill, and both sets of tables are followed at the same time. docs/decisions/0030-rebuild.md says why readers
never see a mixture.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.rebuild.fresh_tables import FreshTables
from rowcast.consumer.rebuild.live_replica import taken_replica
from rowcast.consumer.rebuild.old_tables import OldTables
from rowcast.consumer.rebuild.options import RebuildOptions, RebuildResult
from rowcast.consumer.rebuild.progress import OnRebuildProgress, ReadRecords, RebuildStoppedError
from rowcast.consumer.rebuild.swap import TableSwap
from rowcast.consumer.rebuild.swapped_table import (
    SwappedTable,
    existing_tables,
    recorded_shapes,
    strangers,
    swapped_tables,
)
from rowcast.consumer.rebuild.topics import lacks, read_topics
from rowcast.consumer.rebuild.whole_snapshot import is_from_snapshot, publish_all_rows
from rowcast.consumer.replica.dialects.naming import fresh_naming, fresh_source
from rowcast.consumer.replica.worker_tables import create_tables
from rowcast.shared.backoff import Backoff
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import ConfigurationError, RetriableError
from rowcast.shared.tables.shape import TableShape

_log = logging.getLogger("rowcast.rebuild")

# Readers wait half a second for each attempt at most, and the workers for all of them.
_ATTEMPTS = 10


def rebuild(
    settings: Settings,
    replica: str,
    options: RebuildOptions,
    *,
    stop: threading.Event,
    on_progress: OnRebuildProgress | None = None,
) -> RebuildResult:
    """Fill fresh tables beside the replica's, and swap both.

    Raise ConfigurationError if something prevents the rebuild, before anything is changed. Raise DataError if the
    topics do not give the primary's rows. Raise RebuildStoppedError if ``stop`` is set before the swap.
    """
    return _Rebuild(settings, replica, options, stop, on_progress).run()


class _Rebuild:
    def __init__(
        self,
        settings: Settings,
        name: str,
        options: RebuildOptions,
        stop: threading.Event,
        on_progress: OnRebuildProgress | None,
    ) -> None:
        self._settings = settings
        self._name = name
        self._options = options
        self._stop = stop
        label = f"replica {name!r}"
        self._engine = open_engine(settings.replica(name).sqlalchemy_url, label, pooled=False)
        reach(self._engine, label)
        self._swap = TableSwap(self._engine, settings.source, label)
        self._old = OldTables(self._engine, settings.source, self._swap)
        self._records = ReadRecords(on_progress)
        self._fresh = FreshTables(
            settings, name, fresh_source(settings.source), fresh_naming(), self._records, stop, options.skip
        )

    def run(self) -> RebuildResult:
        if self._options.is_verified:
            self._settings.require_primary()
        create_tables(self._engine, self._swap.replica_dialect)
        if self._old.finish(keep=self._options.keep_old):
            _log.info("the rebuild that was interrupted after its swap is finished")
            return RebuildResult(tuple(self._live_shapes()), 0, None)
        self._old.require_none(self._name)
        if self._options.restart:
            self._old.discard_fresh()
        self._old.discard_incomplete_fresh()
        self._refuse(self._look())
        self._publish_all_rows()
        self._fresh.load(self._engine)
        self._complete()
        verified_rows = self._fresh.verify() if self._options.is_verified else None
        self._records.begin("swapping")
        self._swap_tables()
        self._old.finish(keep=self._options.keep_old)
        self._records.begin("done")
        return RebuildResult(tuple(self._live_shapes()), self._records.progress.total, verified_rows)

    def _live_shapes(self) -> dict[str, TableShape]:
        with self._engine.connect() as connection:
            return recorded_shapes(connection, self._settings.source)

    def _look(self) -> list[str]:
        """Return everything that prevents the rebuild."""
        layouts = RowLayouts(self._settings.replica(self._name).tables)
        ends = read_topics(self._settings, layouts)
        after = {shape.full_name: shape for shape in layouts.latest_shapes()}
        with self._engine.connect() as connection:
            own = recorded_shapes(connection, self._settings.source, created=True)
            users = recorded_shapes(connection, self._settings.source, created=False)
        is_whole = self._options.with_snapshot or is_from_snapshot(self._engine, fresh_source(self._settings.source))
        lacking = [] if is_whole else lacks(self._settings, layouts, ends, own)
        again = f"Publish all rows again: rowcast rebuild {self._name} --snapshot"
        return [
            *(f"{lack}. {again}" for lack in lacking),
            *(
                f"table {name} existed before the first worker and belongs to you, so the rebuild cannot create it. "
                "Rebuild into an empty database with --into, or drop the table and start its worker"
                for name in sorted(users.keys() & after.keys())
            ),
            *strangers(self._engine, self._settings.source, own, after),
            *self._swap.obstacles(self._swapped(own, after)),
        ]

    def _publish_all_rows(self) -> None:
        """Publish all rows again on request, unless an interrupted rebuild has done so."""
        source = fresh_source(self._settings.source)
        if self._options.with_snapshot and not is_from_snapshot(self._engine, source):
            self._old.discard_fresh()
            publish_all_rows(self._settings, self._name, self._engine, source, self._records, self._stop)

    def _refuse(self, reasons: Sequence[str]) -> None:
        if reasons:
            listed = "\n".join(f"- {reason.removesuffix('.')}." for reason in reasons)
            raise ConfigurationError(
                f"replica {self._name!r} cannot be rebuilt beside its tables, and nothing was changed:\n{listed}"
            )

    def _tables(self) -> list[SwappedTable]:
        with self._engine.connect() as connection:
            before = recorded_shapes(connection, self._settings.source, created=True)
            after = recorded_shapes(connection, fresh_source(self._settings.source))
        return self._swapped(before, after)

    def _swapped(self, before: Mapping[str, TableShape], after: Mapping[str, TableShape]) -> list[SwappedTable]:
        tables = swapped_tables(before, after, self._swap.replica_dialect)
        with self._engine.connect() as connection:
            return existing_tables(connection, tables)

    def _complete(self) -> None:
        """Add the user's indexes and rights, however long another session holds a fresh table."""
        self._records.begin("adding indexes")
        backoff = Backoff()
        while True:
            try:
                return self._swap.complete(self._tables())
            except RetriableError as error:
                _log.info("%s", error)
                if self._stop.wait(backoff.next_pause()):
                    raise RebuildStoppedError(self._name) from error

    def _swap_tables(self) -> None:
        """Swap, with a pause after each attempt that readers prevent. The workers go on during the pauses."""
        self._swap.wait_for_snapshots(self._stop)
        backoff = Backoff(0.2, 30.0)
        while not self._try_to_swap():
            pause = backoff.next_pause()
            _log.info("readers hold the tables, so the swap is tried again in %.1f s", pause)
            if self._stop.wait(pause):
                raise RebuildStoppedError(self._name)

    def _try_to_swap(self) -> bool:
        with taken_replica(self._settings, self._name, self._stop) as live:
            fresh = self._fresh.catch_up(self._engine)
            tables = self._tables()
            self._refuse(self._swap.obstacles(tables))
            try:
                self._swap.complete(tables)
            except RetriableError as error:
                _log.debug("%s", error)
                return False
            backoff = Backoff(0.05, 0.5)
            for _ in range(_ATTEMPTS):
                try:
                    self._swap.try_to_swap(live, fresh, tables)
                except RetriableError as error:
                    _log.debug("%s", error)
                    if self._swap.is_done():
                        return True
                    self._stop.wait(backoff.next_pause())
                else:
                    return True
        return False
