"""Keep the changes of a large source transaction in a temporary file, because END comes only after all changes.

The file has no name and vanishes when the worker ends. A block has changes of a single table and partition.
"""

from __future__ import annotations

import heapq
import marshal
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.shared.errors import UnreachableError

_BLOCK_EVENTS = 5_000
_BLOCK_BYTES = 4 * 1024 * 1024

_Series = tuple[str, Partition]
"""A table and a partition. Changes of a series are in the order of their lsns."""


class _Block(NamedTuple):
    """The place of a block in the file."""

    offset: int
    size: int


class SpilledChanges:
    """Collect the changes of a transaction, and give the changes back in the order of lsns, as often as needed.

    ``append`` is called for each series in the order of lsns. Nothing is appended once the changes are read. Raise
    UnreachableError if the file cannot be written.
    """

    def __init__(self, transaction: str | None, changes: Iterable[Change]) -> None:
        self._transaction = transaction
        self._layouts: dict[RowLayout, int] = {}
        self._waiting: dict[_Series, list[Change]] = {}
        self._waiting_events = 0
        self._waiting_bytes = 0
        self._blocks: dict[_Series, list[_Block]] = {}
        self._counts: dict[str, int] = {}
        self._upserted: set[str] = set()
        self._end = 0
        try:
            self._file = tempfile.TemporaryFile(prefix="rowcast-", buffering=0)  # noqa: SIM115  # closed with the object
        except OSError as error:
            raise _refused(error) from error
        weakref.finalize(self, self._file.close)
        self.extend(changes)

    def extend(self, changes: Iterable[Change]) -> None:
        """Add the next changes of a partition."""
        for change in changes:
            self.append(change)

    def append(self, change: Change) -> None:
        """Add the next change of its partition."""
        table = change.layout.table
        self._layouts.setdefault(change.layout, len(self._layouts))
        self._counts[table] = self._counts.get(table, 0) + 1
        if change.after is not None:
            self._upserted.add(table)
        self._waiting.setdefault((table, change.partition), []).append(change)
        self._waiting_events += 1
        self._waiting_bytes += len(change.key) + len(change.after or b"")
        if self._waiting_events >= _BLOCK_EVENTS or self._waiting_bytes >= _BLOCK_BYTES:
            self._write_waiting()

    def _write_waiting(self) -> None:
        for series, changes in self._waiting.items():
            rows = [(self._layouts[c.layout], c.key, c.after, c.lsn, c.ts_ms, c.offset, c.creates) for c in changes]
            block = marshal.dumps(rows)
            try:
                os.pwrite(self._file.fileno(), block, self._end)
            except OSError as error:
                raise _refused(error) from error
            self._blocks.setdefault(series, []).append(_Block(self._end, len(block)))
            self._end += len(block)
        self._waiting = {}
        self._waiting_events = self._waiting_bytes = 0

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __iter__(self) -> Iterator[Change]:
        return self._merged(self._series())

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of changes by table."""
        return self._counts

    @property
    def layouts(self) -> Iterable[RowLayout]:
        """Return the layouts of all changes."""
        return self._layouts.keys()

    @property
    def upserted_tables(self) -> set[str]:
        """Return the tables of which not all changes are deletes."""
        return self._upserted

    def of_table(self, table: str) -> Iterator[Change]:
        """Return the changes of a table, in the order of their lsns."""
        return self._merged([series for series in self._series() if series[0] == table])

    def replace_layouts(self, replacement: Callable[[RowLayout], RowLayout]) -> None:
        """Replace the layouts of the changes. A new layout may name another table."""
        tables = {layout.table: replacement(layout).table for layout in self._layouts}
        self._layouts = {replacement(layout): number for layout, number in self._layouts.items()}
        self._blocks = {(tables[table], partition): blocks for (table, partition), blocks in self._blocks.items()}
        self._waiting = {
            (tables[table], partition): [change._replace(layout=replacement(change.layout)) for change in changes]
            for (table, partition), changes in self._waiting.items()
        }
        counts, self._counts = self._counts, {}
        for table, count in counts.items():
            self._counts[tables[table]] = self._counts.get(tables[table], 0) + count
        self._upserted = {tables[table] for table in self._upserted}

    def _series(self) -> list[_Series]:
        return list(dict.fromkeys((*self._blocks, *self._waiting)))

    def _merged(self, series: list[_Series]) -> Iterator[Change]:
        return heapq.merge(*(self._read(one) for one in series), key=attrgetter("lsn"))

    def _read(self, series: _Series) -> Iterator[Change]:
        layouts = list(self._layouts)
        for block in self._blocks.get(series, ()):
            data = os.pread(self._file.fileno(), block.size, block.offset)
            for number, key, after, lsn, ts_ms, *rest in marshal.loads(data):
                yield Change(layouts[number], key, after, lsn, self._transaction, ts_ms, series[1], *rest)
        yield from self._waiting.get(series, ())


def _refused(error: OSError) -> UnreachableError:
    return UnreachableError(
        f"a large transaction cannot be written to the folder of temporary files, {tempfile.gettempdir()}: "
        f"{error.strerror}. Make room there, or name another folder in TMPDIR."
    )
