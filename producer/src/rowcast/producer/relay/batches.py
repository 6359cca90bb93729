"""The rows of a claim, split into changes: how many lsns they take, and what they leave unfinished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson

from rowcast.producer.relay.blocks import ChangeSplitter
from rowcast.producer.relay.contexts import Headers, read_context
from rowcast.producer.relay.lines import Change, LineHead, shown
from rowcast.producer.relay.reading import OutboxRow
from rowcast.producer.relay.unfinished import Unfinished
from rowcast.shared.errors import DataError

_CHECKED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One outbox row's changes. ``context`` is the application's, ``headers`` are the trace's."""

    id: int
    tx: str
    ts_ms: int
    changes: Sequence[Change]
    context: Mapping[str, Any] | None = None
    headers: Headers = ()


class UnpublishableError(DataError):
    """An outbox row that cannot be published, and so nothing of its transaction. ``mend``: how it could be."""

    def __init__(self, row_id: int, tx: str, reason: str, mend: str = "mend the row") -> None:
        self.tx = tx
        self.reason = f"row {row_id} of rowcast_outbox (transaction {tx}): {reason}"
        self.mend = mend
        super().__init__(
            f"{self.reason}. Nothing is published past it: {mend}, or let the relay park its transaction "
            '(on_unpublishable = "park" in [relay]), and the replicas will lack its changes.'
        )

    def when_begun(self) -> DataError:
        """The error to raise where a part of the transaction was claimed before."""
        return DataError(
            f"{self.reason}. A part of its transaction has been handed to Kafka, so it cannot be parked any more: "
            f"{self.mend}."
        )


def split_row(row: OutboxRow, splitter: ChangeSplitter) -> BatchRow:
    """Raises UnpublishableError if the row is damaged."""
    try:
        # SQLite holds values of any type in columns of any type.
        if not isinstance(row.ts_ms, int):
            raise DataError(f"its ts_ms is no number: {row.ts_ms!r}")
        if not isinstance(row.changes, str):
            raise DataError(f"its changes are no text: {row.changes!r:.120}")
        changes = splitter.split(row.changes)
        _check_images(changes)
        return BatchRow(row.id, row.tx, row.ts_ms, changes, *read_context(row.context))
    except DataError as error:
        raise UnpublishableError(row.id, row.tx, str(error)) from error


def _check_images(changes: Sequence[Change]) -> None:
    """The database writes nothing but JSON. Who mends a row by hand may, and workers could not go past it."""
    for start in range(0, len(changes), _CHECKED_AT_ONCE):
        some = changes[start : start + _CHECKED_AT_ONCE]
        images = [image for _, _, *both in some for image in both if image is not None]
        try:
            whole = len(orjson.loads(b"[%b]" % b",".join(images))) == len(images)
        except orjson.JSONDecodeError:
            whole = False
        if not whole:
            raise DataError(f"a row image is no JSON: {shown(next(filter(_is_damaged, images)))}")


def _is_damaged(image: bytes) -> bool:
    try:
        orjson.loads(image)
    except orjson.JSONDecodeError:
        return True
    return False


def heads_in(rows: Sequence[BatchRow]) -> Iterator[tuple[BatchRow, LineHead]]:
    """Each line head once, with the row that names it first."""
    seen: set[LineHead] = set()
    last = None
    for row in rows:
        for change in row.changes:
            # Of the same table, mostly, which the splitter gives the same object.
            if change[0] is not last:
                last = change[0]
                if last not in seen:
                    seen.add(last)
                    yield row, last


def event_count(rows: Sequence[BatchRow]) -> int:
    """The number of changes: tombstones, BEGIN and END are none."""
    return sum(len(row.changes) for row in rows)


def lsn_count(rows: Sequence[BatchRow], carried: Unfinished | None, goes_on: bool) -> int:
    """One for each change, BEGIN and END; ``goes_on``: the last transaction does not end with these rows."""
    transactions = sum(1 for _ in groupby(rows, key=lambda row: row.tx))
    continued = carried is not None and carried.tx == rows[0].tx
    return event_count(rows) + 2 * transactions - continued - goes_on


def left_unfinished(rows: Sequence[BatchRow], carried: Unfinished | None, end_id: int | None) -> Unfinished | None:
    """What is left after these rows. ``end_id``: see ``Selection``."""
    if end_id is None:
        return None
    tx = rows[-1].tx
    counts = dict(carried.counts) if carried is not None and carried.tx == tx else {}
    last = [row for row in rows if row.tx == tx]
    for row in last:
        for head, *_ in row.changes:
            counts[head.table] = counts.get(head.table, 0) + 1
    return Unfinished(tx, last[-1].id, end_id, counts)
