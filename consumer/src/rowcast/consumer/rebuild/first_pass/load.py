"""Let several processes read the topics into the fresh tables, up to the topics' ends.

divide the partitions ──▶ a process for each share ──▶ give the fresh tables the positions of all shares

The fresh tables are then as a single worker would leave them that was stopped just before its cutover. The next pass
goes on from there. docs/decisions/0034-several-processes-for-the-first-pass.md says why.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence

from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.key_partitions import ScatteredKeysError
from rowcast.consumer.reading.share import Share
from rowcast.consumer.reading.topic_metadata import new_asker, read_shapes
from rowcast.consumer.rebuild.first_pass.claimed import ClaimedReplica
from rowcast.consumer.rebuild.first_pass.last_end import last_committed_end
from rowcast.consumer.rebuild.first_pass.messages import Ended, Failed, Filled, Job, Logged, Reached, Report
from rowcast.consumer.rebuild.first_pass.plan import divide, is_divisible, is_worth_it, with_divided
from rowcast.consumer.rebuild.first_pass.processes import Processes
from rowcast.consumer.rebuild.first_pass.share_rows import ShareRows
from rowcast.consumer.rebuild.progress import ReadRecords, RebuildStoppedError
from rowcast.consumer.rebuild.swapped_table import named
from rowcast.consumer.rebuild.topics import read_topics
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.dialects import TableNaming, quoted_name, replica_dialect
from rowcast.consumer.replica.part import MOST_SHARES, Part, TablesChangedError, is_divided
from rowcast.consumer.replica.positions import read_positions
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import RetriableError

_log = logging.getLogger("rowcast.rebuild")

Ends = Mapping[Partition, tuple[int, int]]

_POLL_S = 0.05
_STOPPED_TOGETHER_S = 1.0


class FirstPass:
    """Fill the tables of one value of ``source`` in the worker's tables.

    ``processes``: the number of processes at a time, or None for one process for each processor if this saves time.
    The other parameters are those of ``FreshTables``.
    """

    def __init__(
        self,
        settings: Settings,
        replica: str,
        source: str,
        naming: TableNaming,
        records: ReadRecords,
        stop: threading.Event,
        skip: Sequence[str],
        processes: int | None,
    ) -> None:
        self._settings = settings
        self._name = replica
        self._source = source
        self._naming = naming
        self._records = records
        self._stop = stop
        self._skip = skip
        self._is_count_given = processes is not None
        self._count = min(processes or _processors(), MOST_SHARES)
        self._rows = ShareRows(source)
        self._layouts = RowLayouts(settings.replica(replica).tables)

    def run(self, engine: Engine) -> bool:
        """Fill the tables. Return False without any change if a single process is to read the topics.

        Raise the errors of the processes, and RebuildStoppedError.
        """
        if not hasattr(os, "fork") or not replica_dialect(engine.dialect.name).has_concurrent_writers:
            return False
        with engine.connect() as connection:
            goes_on = is_divided(connection, self._source)
            has_begun = not goes_on and bool(read_positions(connection, self._source))
        if has_begun or not (goes_on or self._count > 1):
            return False
        ends = read_topics(self._settings, self._layouts)
        shares = [] if goes_on else self._divide(ends)
        if not goes_on and len(shares) < 2:
            return False
        processes = Processes(len(shares) or self._count, engine.dialect.loaded_dbapi.__name__)
        try:
            # Now, because the processes import while the tables are created.
            processes.start()
            replica = self._new_replica()
            with ClaimedReplica(replica, self._stop, self._command) as claimed:
                self._fill(replica, claimed, processes, ends, shares)
        finally:
            processes.end()
        return True

    def _divide(self, ends: Ends) -> list[frozenset[Partition]]:
        shapes = self._layouts.latest_shapes()
        divisible = {self._settings.topic_of(s.schema, s.name) for s in shapes if is_divisible(s)}
        shares = divide(ends, divisible, self._count)
        return shares if self._is_count_given or is_worth_it(shares, ends) else []

    def _new_replica(self) -> Replica:
        options = self._settings.replica(self._name)
        return Replica(self._source, self._name, options, self._layouts, self._naming, Part(self._source))

    @property
    def _command(self) -> str:
        return f"rowcast rebuild {self._name}"

    def _fill(
        self,
        replica: Replica,
        claimed: ClaimedReplica,
        processes: Processes,
        ends: Ends,
        shares: Sequence[frozenset[Partition]],
    ) -> None:
        row, _ = replica.take_over()
        self._prepare(replica)
        with replica.transaction() as connection:
            if shares:
                places = [{p: ends[p][0] for p in sorted(share)} for share in shares]
                self._rows.write(connection, places, row, self._layouts.notes.timeline)
            else:
                self._rows.adopt(connection, row.epoch)
                self._begin_changed_topics_again(connection, ends)
        # Before the shares take their targets, so that every transaction up to this END is before the targets.
        end = last_committed_end(self._settings)
        while True:
            try:
                self._run_shares(replica, claimed, processes, row.epoch)
                break
            except ScatteredKeysError as error:
                processes.end()
                _log.info("%s, so one process reads the whole topic again", error)
                with replica.transaction() as connection:
                    self._begin_again(connection, error.topic, read_topics(self._settings, self._layouts))
            except TablesChangedError as error:
                processes.end()
                _log.info("%s: the tables follow", error)
                self._prepare(replica)
        with replica.transaction() as connection:
            self._rows.collect(connection)
            replica.write_positions(connection, end)

    def _prepare(self, replica: Replica) -> None:
        with new_asker(self._settings) as asker:
            read_shapes(asker, self._settings, self._layouts)
        replica.follow_timeline(self._layouts.notes.timeline)
        replica.prepare()

    def _begin_changed_topics_again(self, connection: Connection, ends: Ends) -> None:
        """Read the divided topics again that have other partitions now, because keys may have moved between them."""
        shares = self._rows.read(connection)
        divided: dict[str, int] = {}
        for share in with_divided([frozenset(places) for places in shares.values()]):
            divided |= share.divided
        for topic, count in sorted(divided.items()):
            if count != sum(name == topic for name, _ in ends):
                _log.info("topic %s has other partitions than before, so one process reads the whole topic", topic)
                self._begin_again(connection, topic, ends)

    def _begin_again(self, connection: Connection, topic: str, ends: Ends) -> None:
        """Delete the rows of the topic's table, and let one process read the topic from the start."""
        for shape in self._layouts.latest_shapes():
            if self._settings.topic_of(shape.schema, shape.name) == topic:
                place = named(shape, replica_dialect(connection.dialect.name), self._naming)
                connection.exec_driver_sql(f"DELETE FROM {quoted_name(connection, *place)}")
        firsts = {partition: first for partition, (first, _) in ends.items() if partition[0] == topic}
        self._rows.begin_again(connection, firsts)

    def _run_shares(self, replica: Replica, claimed: ClaimedReplica, processes: Processes, epoch: int) -> None:
        """Run a process for each share until all have read up to the ends. Raise the error of a process."""
        with replica.transaction() as connection:
            found = self._rows.read(connection)
        self._records.resume({p: place.next_offset for places in found.values() for p, place in places.items()})
        self._records.begin("loading", read_topics(self._settings, self._layouts))
        shares = with_divided([frozenset(places) for places in found.values()])
        part = Part(self._source, epoch)
        processes.start()
        processes.begin([self._job(*one, part) for one in zip(found, shares, strict=True)])
        remaining = len(found)
        while remaining:
            if self._stop.is_set():
                raise RebuildStoppedError(self._name)
            claimed.keep()
            for report in processes.take(_POLL_S):
                remaining -= isinstance(report, Filled)
                self._handle(report)

    def _job(self, source: str, share: Share, part: Part) -> Job:
        return Job(
            self._settings,
            self._name,
            source,
            self._naming,
            part,
            share,
            tuple(self._skip),
            (self._command, f"{self._command} --restart"),
            logging.getLogger().getEffectiveLevel(),
        )

    def _handle(self, report: Report) -> None:
        match report:
            case Reached(positions):
                self._records.commit_offsets(positions)
            case Logged(logger, level, text):
                logging.getLogger(logger).log(level, "%s", text)
            case Failed(None, traceback):
                raise RuntimeError(f"a process of the rebuild has failed:\n{traceback}")
            case Failed(error):
                assert error is not None
                raise error
            case Ended(code):
                self._raise_ended(code)

    def _raise_ended(self, code: int | None) -> None:
        # A service manager may stop all processes at once.
        if self._stop.wait(_STOPPED_TOGETHER_S):
            raise RebuildStoppedError(self._name)
        how = "" if code is None else f" (signal {-code})" if code < 0 else f" (exit code {code})"
        raise RetriableError(
            f"a process of the rebuild has ended{how}, and not by rowcast. If the memory was short, use fewer "
            f"processes: rowcast rebuild {self._name} --processes 1. The rebuild goes on where it was."
        )


def _processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
