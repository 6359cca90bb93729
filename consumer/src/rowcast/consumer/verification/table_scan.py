"""Find the rows of one table that seem to differ, while both sides are live.

The first pass gives each bucket of both sides a sum. The second pass reads the hashes of the rows in the buckets that
differ. Both sides are read at the same time, in threads, page by page in the order of each side's own key.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection

from rowcast.consumer.verification.buckets import Buckets, Tally
from rowcast.consumer.verification.readers import HashedRow, Reader, TooLargeError
from rowcast.consumer.verification.results import VerifyStoppedError

_BATCH_ROWS = 100_000
"""The second pass keeps the hashes of about this many rows in memory."""

Suspects = dict[Hashable, dict[str, Any]]
"""The keys of rows that seem to differ."""


class TableScan:
    """Read both sides of a table. ``on_rows``: called with the number of rows of the primary that were read.

    ``max_rate``: the greatest number of rows of each side to read in a second, or None. ``stop``: set to end early.
    """

    def __init__(
        self,
        primary: Reader,
        replica: Reader,
        buckets: Buckets,
        on_rows: Callable[[int], None],
        max_rate: int | None,
        stop: threading.Event,
    ) -> None:
        self._primary = primary
        self._replica = replica
        self._buckets = buckets
        self._on_rows = on_rows
        self._max_rate = max_rate
        self._stop = stop
        self._has_failed = threading.Event()
        self.rows = 0
        """The number of the primary's rows."""

    def suspects(self) -> Iterator[Suspects]:
        """Yield the rows that seem to differ, batch by batch. Raise VerifyStoppedError if stopped."""
        ours, theirs = Tally(), Tally()
        self._in_parallel(
            lambda: self._tally(self._primary, ours, self._on_rows), lambda: self._tally(self._replica, theirs, _ignore)
        )
        self.rows = ours.rows
        for batch in _batches(ours.differing(theirs)):
            if suspects := self._compare_rows(batch):
                yield suspects

    def _tally(self, reader: Reader, tally: Tally, on_rows: Callable[[int], None]) -> None:
        def add(connection: Connection, page: ColumnElement[bool]) -> None:
            before = tally.rows
            reader.tally(connection, page, tally)
            on_rows(tally.rows - before)

        self._read_pages(reader, add)

    def _compare_rows(self, buckets: list[int]) -> Suspects:
        """Return the rows of the buckets whose hashes differ. The primary's rows are in memory."""
        ours: dict[Hashable, HashedRow] = {}
        suspects: Suspects = {}

        def take_ours(row: HashedRow) -> None:
            ours[row.identity] = row

        def take_theirs(row: HashedRow) -> None:
            found = ours.pop(row.identity, None)
            if found is None or found.hash != row.hash:
                # The primary's form of the key is that of events.
                suspects[row.identity] = row.key if found is None else found.key

        self._read_rows(self._primary, buckets, take_ours)
        self._read_rows(self._replica, buckets, take_theirs)
        return suspects | {identity: row.key for identity, row in ours.items()}

    def _read_rows(self, reader: Reader, buckets: list[int], take: Callable[[HashedRow], None]) -> None:
        wanted: Collection[int] = frozenset(buckets)

        def read(connection: Connection, page: ColumnElement[bool]) -> None:
            for row in reader.hashed_rows(connection, page, wanted):
                take(row)

        conditions = self._buckets.conditions(reader.table, buckets)
        for condition in [None] if conditions is None else conditions:
            self._read_pages(reader, read, condition)

    def _read_pages(
        self,
        reader: Reader,
        read: Callable[[Connection, ColumnElement[bool]], None],
        condition: ColumnElement[bool] | None = None,
    ) -> None:
        """Read all pages of a side, or of the rows that fulfil the condition."""
        table = reader.table
        if not table.exists:
            return
        within = sa.true() if condition is None else condition
        last: tuple[Any, ...] | None = None
        with table.database.connect() as connection:
            while True:
                self._require_running()
                began, rows = time.monotonic(), reader.rows
                end = table.page_end(connection, last, rows, within)
                try:
                    read(connection, sa.and_(table.between(last, end), within))
                except TooLargeError:
                    reader.shrink()
                    continue
                if end is None:
                    return
                last = end
                self._keep_pace(rows, began)

    def _require_running(self) -> None:
        if self._stop.is_set() or self._has_failed.is_set():
            raise VerifyStoppedError

    def _keep_pace(self, rows: int, began: float) -> None:
        if self._max_rate is not None:
            self._stop.wait(max(0.0, began + rows / self._max_rate - time.monotonic()))

    def _in_parallel(self, *works: Callable[[], None]) -> None:
        """Run the works in threads. If a work fails, the other work stops after the current page."""

        def run(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException:
                self._has_failed.set()
                raise

        with ThreadPoolExecutor(len(works), thread_name_prefix="rowcast-verify") as threads:
            running = [threads.submit(contextvars.copy_context().run, run, work) for work in works]
            try:
                wait(running)
            except BaseException:
                self._has_failed.set()
                raise
        errors = [error for one in running if (error := one.exception()) is not None]
        # A work stopped by the other work has nothing to say.
        for error in sorted(errors, key=lambda error: isinstance(error, VerifyStoppedError)):
            raise error


def _ignore(_rows: int) -> None:
    return


def _batches(differing: Mapping[int, int]) -> Iterator[list[int]]:
    """Yield the buckets in batches of about ``_BATCH_ROWS`` rows."""
    batch: list[int] = []
    rows = 0
    for bucket, count in differing.items():
        if batch and rows + count > _BATCH_ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(bucket)
        rows += count
    if batch:
        yield batch
