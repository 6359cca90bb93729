"""Rebuild a replica from the topics: beside the live tables, or in another database.

look ──▶ fill fresh tables ──▶ add indexes and rights ──▶ verify ──▶ swap ──▶ drop the old tables

A rebuild of chosen tables swaps when the fresh tables and the live tables are at the same lsn.

The position of the fresh tables is in the replica, beside the position of the live tables. Therefore a rebuild goes on
after any kill, and both sets of tables are followed at the same time. docs/decisions/0030-rebuild.md says why readers
never see a mixture.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.rebuild.catch_up_live import applied_lsn, reach_lsn, require_consistent
from rowcast.consumer.rebuild.foreign_keys import unsupported_keys
from rowcast.consumer.rebuild.fresh_tables import FreshTables
from rowcast.consumer.rebuild.old_tables import OldTables
from rowcast.consumer.rebuild.options import RebuildOptions, RebuildResult
from rowcast.consumer.rebuild.progress import OnRebuildProgress, ReadRecords, RebuildStoppedError
from rowcast.consumer.rebuild.scope import scope_of
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
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.dialects.naming import fresh_naming, fresh_source, part_source
from rowcast.consumer.replica.positions import ReplicaRow
from rowcast.consumer.replica.promoted import require_not_promoted
from rowcast.consumer.replica.taken import restore_foreign_keys, taken_replica
from rowcast.consumer.replica.worker_tables import create_tables
from rowcast.consumer.views.changed_view import changed_views
from rowcast.consumer.views.replica_view import replica_shapes
from rowcast.shared.backoff import Backoff
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import ConfigurationError, DataError, RetriableError
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
        self._scope = scope_of(settings, name, options.tables)
        self._swap = TableSwap(self._engine, settings.source, self._scope.fresh_source, label)
        self._old = OldTables(self._engine, settings.source, self._swap)
        self._records = ReadRecords(on_progress)
        self._fresh = FreshTables(
            self._scope.settings,
            name,
            self._scope.fresh_source,
            fresh_naming(),
            self._records,
            stop,
            options.skip,
            options.processes,
        )

    def run(self) -> RebuildResult:
        if self._options.is_verified:
            self._settings.require_primary()
        require_not_promoted(self._engine, self._settings.source, self._name)
        create_tables(self._engine, self._swap.replica_dialect)
        if self._old.finish(keep=self._options.keep_old):
            _log.info("the rebuild that was interrupted after its swap is finished")
            return self._result(0, None)
        self._old.require_none(self._name)
        if self._options.restart:
            self._old.discard_fresh(fresh_source(self._settings.source))
            self._old.discard_fresh(part_source(self._settings.source))
        self._old.require_no_other_fresh(self._name, self._scope)
        self._old.discard_incomplete_fresh(self._scope.fresh_source)
        self._refuse(self._look())
        self._publish_all_rows()
        self._fresh.load(self._engine)
        self._complete()
        verified_rows = self._fresh.verify() if self._options.is_verified else None
        self._records.begin("swapping")
        self._swap_tables()
        self._old.finish(keep=self._options.keep_old)
        self._records.begin("done")
        return self._result(self._records.progress.total, verified_rows)

    def _result(self, records: int, verified_rows: int | None) -> RebuildResult:
        return RebuildResult(tuple(self._scope.of(self._live_shapes())), records, verified_rows)

    def _live_shapes(self) -> dict[str, TableShape]:
        with self._engine.connect() as connection:
            return recorded_shapes(connection, self._settings.source)

    def _look(self) -> list[str]:
        """Return everything that prevents the rebuild."""
        layouts = RowLayouts(self._scope.settings.replica(self._name).tables)
        ends = read_topics(self._settings, layouts)
        options = self._scope.settings.replica(self._name)
        after = {shape.full_name: shape for shape in replica_shapes(options, layouts)}
        with self._engine.connect() as connection:
            worker_shapes = recorded_shapes(connection, self._settings.source, created=True)
            users = recorded_shapes(connection, self._settings.source, created=False)
        own = self._scope.of(worker_shapes)
        if self._joins_at_one_lsn:
            require_consistent(self._engine, self._settings.source, self._name)
        is_whole = self._options.with_snapshot or is_from_snapshot(self._engine, self._scope.fresh_source)
        lacking = [] if is_whole else lacks(self._settings, layouts, ends, own)
        again = f"Publish all rows again: {self._command} --snapshot"
        return [
            *(f"{lack}. {again}" for lack in lacking),
            *(
                f"table {name} existed before the first worker and belongs to you, so the rebuild cannot create it. "
                "Rebuild into an empty database with --into, or drop the table and start its worker"
                for name in sorted(users.keys() & after.keys())
            ),
            *strangers(self._engine, self._settings.source, own, after),
            *(changed_views(own, after) if self._scope.is_part else ()),
            *(
                ()
                if self._options.is_ahead
                else unsupported_keys(after, self._scope.rest(worker_shapes), self._swap.replica_dialect)
            ),
            *self._obstacles(self._swapped(own, after)),
        ]

    @property
    def _joins_at_one_lsn(self) -> bool:
        """Return whether the fresh tables and the tables that stay must be at one lsn for the swap."""
        return self._scope.is_part and not self._options.is_ahead

    @property
    def _command(self) -> str:
        """Return the command line of this rebuild."""
        tables = f" --tables {','.join(self._options.tables)}" if self._options.tables else ""
        return f"rowcast rebuild {self._name}{tables}"

    def _obstacles(self, tables: Sequence[SwappedTable]) -> list[str]:
        with self._engine.connect() as connection:
            rest = self._scope.rest(recorded_shapes(connection, self._settings.source, created=True))
        return self._swap.obstacles(tables, self._swapped(rest, {}))

    def _publish_all_rows(self) -> None:
        """Publish all rows again on request, unless an interrupted rebuild has done so."""
        source = self._scope.fresh_source
        if self._options.with_snapshot and not is_from_snapshot(self._engine, source):
            self._old.discard_fresh(source)
            publish_all_rows(self._scope.settings, self._name, self._engine, source, self._records, self._stop)

    def _refuse(self, reasons: Sequence[str]) -> None:
        if reasons:
            listed = "\n".join(f"- {reason.removesuffix('.')}." for reason in reasons)
            raise ConfigurationError(
                f"replica {self._name!r} cannot be rebuilt beside its tables, and nothing was changed:\n{listed}"
            )

    def _tables(self) -> list[SwappedTable]:
        with self._engine.connect() as connection:
            before = self._scope.of(recorded_shapes(connection, self._settings.source, created=True))
            after = recorded_shapes(connection, self._scope.fresh_source)
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
                return self._swap.complete(self._tables(), is_part=self._scope.is_part)
            except RetriableError as error:
                _log.info("%s", error)
                if self._stop.wait(backoff.next_pause()):
                    raise RebuildStoppedError(self._name) from error

    def _swap_tables(self) -> None:
        """Swap, with a pause after each attempt that readers prevent. The workers go on during the pauses."""
        self._swap.wait_for_snapshots(self._stop)
        if self._joins_at_one_lsn:
            self._meet_live_tables()
        backoff = Backoff(0.2, 30.0)
        while not self._try_to_swap():
            pause = backoff.next_pause()
            _log.info("readers hold the tables, so the swap is tried again in %.1f s", pause)
            if self._stop.wait(pause):
                raise RebuildStoppedError(self._name)

    def _meet_live_tables(self) -> None:
        """Let the live tables reach the lsn of the fresh tables, and then the fresh tables that of the live tables.

        From here on the fresh tables are never ahead.
        """
        fresh_lsn = applied_lsn(self._engine, self._scope.fresh_source)
        reach_lsn(self._settings, self._name, self._engine, fresh_lsn, self._stop)
        self._fresh.catch_up(self._engine, until_lsn=applied_lsn(self._engine, self._settings.source))

    def _try_to_swap(self) -> bool:
        layouts = RowLayouts(self._settings.replica(self._name).tables)
        with taken_replica(self._settings, self._name, layouts, self._stop, f"rowcast rebuild {self._name}") as live:
            fresh = self._catch_up_with(live)
            tables = self._tables()
            self._refuse(self._obstacles(tables))
            try:
                self._swap.complete(tables, is_part=self._scope.is_part)
            except RetriableError as error:
                _log.debug("%s", error)
                return False
            if not self._swap_once_free(live, fresh, tables):
                return False
            if self._joins_at_one_lsn:
                read_topics(self._settings, layouts)
                restore_foreign_keys(live, self._stop)
            return True

    def _catch_up_with(self, live: Replica) -> ReplicaRow:
        """Read the topics to their ends, or let chosen tables reach the lsn at which the live tables stay."""
        if self._options.is_ahead and live.state == "consistent":
            # A load by key is what brings tables at different lsns together.
            live.lose_consistency()
        if not self._joins_at_one_lsn:
            return self._fresh.catch_up(self._engine)
        timeline = require_consistent(self._engine, self._settings.source, self._name)
        live.compare()
        fresh = self._fresh.catch_up(self._engine, until_lsn=applied_lsn(self._engine, self._settings.source))
        if fresh.timeline != timeline:
            raise DataError(
                f"replica {self._name!r} is on timeline {timeline}, and the source on timeline {fresh.timeline}. "
                f"Rebuild all tables: rowcast rebuild {self._name}"
            )
        return fresh

    def _swap_once_free(self, live: Replica, fresh: ReplicaRow, tables: Sequence[SwappedTable]) -> bool:
        """Swap as soon as no reader holds a table. Return False if readers still hold one after some attempts."""
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
