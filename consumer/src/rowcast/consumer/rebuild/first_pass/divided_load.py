"""Let several processes read the topics into the fresh tables, up to the topics' ends.

divide the partitions ──▶ a process for each share ──▶ give the fresh tables the positions of all shares

The fresh tables are then as a single worker would leave them that was stopped just before its cutover. The next pass
goes on from there. docs/decisions/0034-several-processes-for-the-first-pass.md says why.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from sqlalchemy.engine import Connection

from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.key_partitions import ScatteredKeysError
from rowcast.consumer.reading.topic_metadata import new_asker, read_shapes
from rowcast.consumer.rebuild.first_pass.claimed import ClaimedReplica
from rowcast.consumer.rebuild.first_pass.messages import Ended, Failed, Filled, Job, Logged, Reached, Report
from rowcast.consumer.rebuild.first_pass.plan import Ends, with_divided
from rowcast.consumer.rebuild.first_pass.processes import Processes
from rowcast.consumer.rebuild.first_pass.share_rows import ShareRows
from rowcast.consumer.rebuild.first_pass.target import FreshTarget
from rowcast.consumer.rebuild.progress import ReadRecords, RebuildStoppedError
from rowcast.consumer.rebuild.swapped_table import named
from rowcast.consumer.rebuild.topics import read_topics
from rowcast.consumer.replica.dialects import quoted_name, replica_dialect
from rowcast.consumer.replica.part import Part, TablesChangedError
from rowcast.shared.errors import RetriableError

_log = logging.getLogger("rowcast.rebuild")

_POLL_S = 0.05
_STOPPED_TOGETHER_S = 1.0


class DividedLoad:
    """Fill the tables of a target by processes. ``claimed``: the fresh tables. ``layouts``: where shapes are read."""

    def __init__(
        self,
        target: FreshTarget,
        layouts: RowLayouts,
        claimed: ClaimedReplica,
        processes: Processes,
        records: ReadRecords,
        stop: threading.Event,
    ) -> None:
        self._target = target
        self._layouts = layouts
        self._claimed = claimed
        self._replica = claimed.replica
        self._processes = processes
        self._records = records
        self._stop = stop
        self._rows = ShareRows(target.source)
        self._epoch = 0

    def begin(self, ends: Ends, shares: Sequence[frozenset[Partition]]) -> None:
        """Begin a load with these shares."""
        row, _ = self._replica.take_over()
        self._epoch = row.epoch
        self._prepare()
        places = [{partition: ends[partition][0] for partition in sorted(share)} for share in shares]
        with self._replica.transaction() as connection:
            self._rows.write(connection, places, row, self._layouts.notes.timeline)

    def go_on(self, ends: Ends) -> None:
        """Go on with the shares of an interrupted load."""
        row, _ = self._replica.take_over()
        self._epoch = row.epoch
        self._prepare()
        with self._replica.transaction() as connection:
            self._rows.adopt(connection, self._epoch)
            self._begin_changed_topics_again(connection, ends)

    def run(self) -> None:
        """Run a process for each share, and give the fresh tables the positions. Raise the errors of the processes."""
        while not self._are_filled():
            _log.debug("the processes begin again")
        with self._replica.transaction() as connection:
            self._rows.collect(connection)

    def _are_filled(self) -> bool:
        """Return True if all shares have been read up to the ends, and False if the processes are to begin again."""
        try:
            self._run_shares()
        except ScatteredKeysError as error:
            _log.info("%s, so one process reads the whole topic again", error)
            self._processes.end()
            ends = read_topics(self._target.settings, self._layouts)
            with self._replica.transaction() as connection:
                # Waits for the last transactions of the processes, whose rows are to be deleted too.
                self._rows.adopt(connection, self._epoch)
                self._begin_again(connection, error.topic, ends)
        except TablesChangedError as error:
            _log.info("%s: the tables follow", error)
            self._processes.end()
            self._prepare()
        else:
            return True
        return False

    def _prepare(self) -> None:
        """Create or adapt the tables of all shapes."""
        with new_asker(self._target.settings) as asker:
            read_shapes(asker, self._target.settings, self._layouts)
        self._replica.follow_timeline(self._layouts.notes.timeline)
        self._replica.prepare()

    def _begin_changed_topics_again(self, connection: Connection, ends: Ends) -> None:
        """Read divided topics with new partitions again, because keys may have moved between partitions."""
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
            if self._target.settings.topic_of(shape.schema, shape.name) == topic:
                place = named(shape, replica_dialect(connection.dialect.name), self._target.naming)
                connection.exec_driver_sql(f"DELETE FROM {quoted_name(connection, *place)}")
        firsts = {partition: first for partition, (first, _) in ends.items() if partition[0] == topic}
        self._rows.begin_again(connection, firsts)

    def _run_shares(self) -> None:
        """Run a process for each share until all have read up to the ends. Raise the error of a process."""
        with self._replica.transaction() as connection:
            found = self._rows.read(connection)
        self._records.resume({p: place.next_offset for places in found.values() for p, place in places.items()})
        self._records.begin("loading", read_topics(self._target.settings, self._layouts))
        shares = with_divided([frozenset(places) for places in found.values()])
        part, level = Part(self._target.source, self._epoch), logging.getLogger().getEffectiveLevel()
        jobs = [Job(self._target, source, part, share, level) for source, share in zip(found, shares, strict=True)]
        self._processes.start()
        self._processes.begin(jobs)
        remaining = len(jobs)
        while remaining:
            if self._stop.is_set():
                raise RebuildStoppedError(self._target.replica)
            self._claimed.keep()
            for report in self._processes.take(_POLL_S):
                remaining -= isinstance(report, Filled)
                self._handle(report)

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
            raise RebuildStoppedError(self._target.replica)
        how = "" if code is None else f" (signal {-code})" if code < 0 else f" (exit code {code})"
        raise RetriableError(
            f"a process of the rebuild has ended{how}, and not by rowcast. If the memory was short, use fewer "
            f"processes: {self._target.command} --processes 1. The rebuild goes on where it was."
        )
