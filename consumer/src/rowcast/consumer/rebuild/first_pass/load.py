"""Let several processes fill the tables of a rebuild if this saves time."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from sqlalchemy.engine import Engine

from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.share import is_divisible
from rowcast.consumer.rebuild.first_pass.claimed import ClaimedReplica
from rowcast.consumer.rebuild.first_pass.divided_load import DividedLoad
from rowcast.consumer.rebuild.first_pass.plan import Ends, divide, is_worth_it
from rowcast.consumer.rebuild.first_pass.processes import Processes
from rowcast.consumer.rebuild.first_pass.target import FreshTarget
from rowcast.consumer.rebuild.progress import ReadRecords
from rowcast.consumer.rebuild.topics import read_topics
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.part import MOST_SHARES, is_divided
from rowcast.consumer.replica.positions import read_positions


class FirstPass:
    """Divide the load of a target, or go on with a divided load.

    ``processes``: the number of processes at a time, or None for a process for each processor if several save time.
    """

    def __init__(self, target: FreshTarget, records: ReadRecords, stop: threading.Event, processes: int | None) -> None:
        self._target = target
        self._records = records
        self._stop = stop
        self._is_count_given = processes is not None
        self._count = min(processes or _processors(), MOST_SHARES)
        self._layouts = RowLayouts(target.settings.replica(target.replica).tables)

    def run(self, engine: Engine) -> bool:
        """Return True after several processes have filled the tables, and False if a single worker is to.

        Raise the errors of the processes, and RebuildStoppedError.
        """
        with engine.connect() as connection:
            goes_on = is_divided(connection, self._target.source)
            has_begun = not goes_on and bool(read_positions(connection, self._target.source))
        if not goes_on and (has_begun or self._count < 2 or not _can_write_at_once(engine)):
            return False
        ends = read_topics(self._target.settings, self._layouts)
        shares = () if goes_on else self._divide(ends)
        if not goes_on and len(shares) < 2:
            return False
        claimed = ClaimedReplica(self._target, self._layouts, self._stop)
        # First, because the processes import while the tables are created.
        count = len(shares) or self._count
        with Processes(count, engine.dialect.loaded_dbapi.__name__) as processes, claimed:
            load = DividedLoad(self._target, self._layouts, claimed, processes, self._records, self._stop)
            if goes_on:
                load.go_on(ends)
            else:
                load.begin(ends, shares)
            load.run()
        return True

    def _divide(self, ends: Ends) -> Sequence[frozenset[Partition]]:
        if self._layouts.renamed:
            # The events of a renamed table are in several topics, and only their lsns say the order.
            return ()
        shapes = self._layouts.latest_shapes()
        divisible = {self._target.settings.topic_of(s.schema, s.name) for s in shapes if is_divisible(s)}
        shares = divide(ends, divisible, self._count)
        return shares if self._is_count_given or is_worth_it(shares, ends) else ()


def _can_write_at_once(engine: Engine) -> bool:
    """Return whether several processes can be forked, and can write to the database at the same time."""
    return hasattr(os, "fork") and replica_dialect(engine.dialect.name).has_concurrent_writers


def _processors() -> int:
    """Return the number of processors for the rebuild."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
