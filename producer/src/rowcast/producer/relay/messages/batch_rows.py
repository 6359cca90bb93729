"""Parse the outbox rows of a claim into changes, count their lsns, and find the transaction they leave unfinished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson

from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.producer.outbox.context_parser import Headers, read_context
from rowcast.producer.outbox.line_parser import Change, LineHead, quoted_line
from rowcast.producer.relay.claims.outbox_reader import OutboxRow
from rowcast.producer.relay.claims.partial_transaction import PartialTransaction
from rowcast.shared import row_values
from rowcast.shared.errors import DataError

_CHECKED_TOGETHER = 500


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """Hold the changes of one outbox row.

    ``context``: the application's context of the transaction. ``headers``: the trace context, as Kafka headers.
    """

    id: int
    tx: str
    ts_ms: int
    changes: Sequence[Change]
    context: Mapping[str, Any] | None = None
    headers: Headers = ()


class UnpublishableError(DataError):
    """Report an outbox row that cannot be published. Its whole transaction cannot be published either.

    ``tx``: the transaction. ``reason``: the damage. ``hint``: how the row could become publishable.
    """

    def __init__(self, row_id: int, tx: str, reason: str, hint: str = "correct the row") -> None:
        self.tx = tx
        self.reason = f"row {row_id} of rowcast_outbox (transaction {tx}): {reason}"
        self.hint = hint
        super().__init__(
            f"{self.reason}. The relay publishes nothing after it: {hint}, or let the relay park the transaction "
            '(on_unpublishable = "park" in [relay]), and the replicas will lack its changes.'
        )

    def after_partial_claim(self) -> DataError:
        """Return the error to raise if a part of the transaction is claimed already."""
        return DataError(
            f"{self.reason}. A part of the transaction has been sent to Kafka, so the relay cannot park it any more: "
            f"{self.hint}."
        )


def parse_row(row: OutboxRow, splitter: ChangeSplitter) -> ParsedRow:
    """Parse an outbox row. Raises UnpublishableError if the row is damaged."""
    try:
        # A column of SQLite can hold a value of any type.
        if not isinstance(row.ts_ms, int):
            raise DataError(f"its ts_ms is not a number{row_values.value_suffix(row.ts_ms)}")
        if not isinstance(row.changes, str):
            raise DataError(f"its changes are not text{row_values.value_suffix(row.changes, 120)}")
        changes = splitter.split(row.changes)
        _check_images(changes)
        return ParsedRow(row.id, row.tx, row.ts_ms, changes, *read_context(row.context))
    except DataError as error:
        raise UnpublishableError(row.id, row.tx, str(error)) from error


def _check_images(changes: Sequence[Change]) -> None:
    """Raise DataError for a row image with invalid JSON.

    The database writes valid JSON only. But an administrator may have edited a row, and a worker stops at an event with
    invalid JSON.
    """
    for start in range(0, len(changes), _CHECKED_TOGETHER):
        some = changes[start : start + _CHECKED_TOGETHER]
        images = [image for _, _, *both in some for image in both if image is not None]
        if not _are_json_fast(images):
            raise DataError(f"a row image is not JSON{quoted_line(_first_damaged(images))}")


def _are_json_fast(images: Sequence[bytes]) -> bool:
    """Return whether all images are JSON. Fast path: parse a single array of all images."""
    try:
        return len(orjson.loads(b"[%b]" % b",".join(images))) == len(images)
    except orjson.JSONDecodeError:
        return False


def _first_damaged(images: Sequence[bytes]) -> bytes:
    """Return the first image with invalid JSON. Full path: parse each image alone."""
    return next(image for image in images if not _is_json(image))


def _is_json(image: bytes) -> bool:
    try:
        orjson.loads(image)
    except orjson.JSONDecodeError:
        return False
    return True


def heads_in(rows: Sequence[ParsedRow]) -> Iterator[tuple[ParsedRow, LineHead]]:
    """Yield each line head once, with the first row that names it."""
    seen: set[LineHead] = set()
    last = None
    for row in rows:
        for change in row.changes:
            # Most changes have the head of the change before. The splitter returns the same object for equal heads.
            if change[0] is not last:
                last = change[0]
                if last not in seen:
                    seen.add(last)
                    yield row, last


def event_count(rows: Sequence[ParsedRow]) -> int:
    """Return the number of changes, without tombstones, BEGIN and END."""
    return sum(len(row.changes) for row in rows)


def lsn_count(rows: Sequence[ParsedRow], carried_in: PartialTransaction | None, has_more: bool) -> int:
    """Return how many lsns the rows take: one for each change, BEGIN and END.

    ``has_more``: the last transaction has further rows, and its END comes in a later claim.
    """
    transactions = sum(1 for _ in groupby(rows, key=lambda row: row.tx))
    begun_before = carried_in is not None and carried_in.tx == rows[0].tx
    return event_count(rows) + 2 * transactions - begun_before - has_more


def partial_after(
    rows: Sequence[ParsedRow], carried_in: PartialTransaction | None, end_id: int | None
) -> PartialTransaction | None:
    """Return the partial transaction at the end of the rows, or None. ``end_id``: see ``Selection``."""
    if end_id is None:
        return None
    tx = rows[-1].tx
    counts = dict(carried_in.counts) if carried_in is not None and carried_in.tx == tx else {}
    last = [row for row in rows if row.tx == tx]
    for row in last:
        for head, *_ in row.changes:
            counts[head.table] = counts.get(head.table, 0) + 1
    return PartialTransaction(tx, last[-1].id, end_id, counts)
