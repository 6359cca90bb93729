"""Load the outbox rows to publish: read, parse and check them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.producer.outbox.line_parser import Change, LineHead
from rowcast.producer.relay.claims.outbox_reader import Head, OutboxReader
from rowcast.producer.relay.kafka.size_limits import SIZE_HINT, SizeLimits
from rowcast.producer.relay.messages.batch_rows import ParsedRow, UnpublishableError, heads_in, parse_row
from rowcast.producer.relay.messages.connect_images import ConnectImages
from rowcast.producer.relay.messages.envelopes import Envelopes
from rowcast.producer.relay.messages.table_versions import TableVersions
from rowcast.shared.errors import DataError

_LARGE_READ_BYTES = 1024 * 1024
"""A read of this size may take some time, and runs in a background thread."""


class RowLoader:
    """Load outbox rows for one leader.

    ``prepare``: publish the shapes and create the topics for events with these heads. ``images``: encoder of row images
    for Kafka Connect, or None.
    """

    def __init__(
        self,
        outbox: OutboxReader,
        tables: TableVersions,
        envelopes: Envelopes,
        limits: SizeLimits,
        prepare: Callable[[Collection[LineHead]], None],
        images: ConnectImages | None = None,
    ) -> None:
        self._outbox = outbox
        self._tables = tables
        self._envelopes = envelopes
        self._limits = limits
        self._prepare = prepare
        self._images = images
        self._splitter = ChangeSplitter()

    def read(self, ids: Sequence[int], heads: Sequence[Head] = ()) -> list[ParsedRow]:
        """Return the rows with these ids, in this order, without deleted rows.

        ``heads``: the heads of the rows, if known, with the small rows. Raises UnpublishableError for a
        damaged row.
        """
        found = {head.id: head.row for head in heads if head.row is not None}
        if others := [id_ for id_ in ids if id_ not in found]:
            large = not heads or sum(head.size for head in heads if head.row is None) >= _LARGE_READ_BYTES
            found |= {row.id: row for row in self._outbox.rows(others, large=large)}
        rows = [parse_row(found[id_], self._splitter) for id_ in ids if id_ in found]
        for row, head in heads_in(rows):
            try:
                self._tables.get(head)
            except DataError as error:
                raise UnpublishableError(row.id, row.tx, str(error)) from error
        return rows if self._images is None else [self._images.encode_row(row) for row in rows]

    def check_sizes(self, rows: Sequence[ParsedRow], heads: Sequence[Head], lsn: int) -> None:
        """Raise UnpublishableError for a row with a change too large for Kafka.

        ``lsn``: roughly the lsn of the row. Only large rows are turned into messages and measured, so the check of
        usual rows costs nearly nothing.
        """
        schema = self._envelopes.schema_bytes(head for _, head in heads_in(rows))
        suspects = {head.id for head in heads if self._limits.may_exceed(head.size + schema)}
        large = [r for r in rows if r.id in suspects and self._limits.may_exceed(max(map(_size, r.changes)) + schema)]
        if not large:
            return
        # The limit of a topic is known only after the topic was created.
        self._prepare({head for _, head in heads_in(large)})
        now_ms = time.time_ns() // 1_000_000
        for row in large:
            for change, message in self._envelopes.row_events(row, lsn, now_ms):
                if (reason := self._limits.excess(message)) is not None:
                    raise UnpublishableError(row.id, row.tx, f"table {change[0].table}: {reason}", SIZE_HINT)

    def chunk_excess(self, changes: Sequence[Change], largest: int, lsn: int) -> str | None:
        """Return why a row of a snapshot's chunk is too large for Kafka, or None. ``largest``: see ``Chunk``."""
        schema = self._envelopes.schema_bytes(head for head, *_ in changes[:1])
        if not self._limits.may_exceed(largest + schema):
            return None
        large = [change for change in changes if self._limits.may_exceed(_size(change) + schema)]
        if large:
            self._prepare({head for head, *_ in large})
        for message in self._envelopes.chunk_rows(large, lsn, time.time_ns() // 1_000_000):
            if reason := self._limits.excess(message):
                return f"{reason}. {SIZE_HINT.capitalize()}, and request the snapshot again"
        return None


def _size(change: Change) -> int:
    _, key, after, before = change
    return len(key) + len(after or b"") + len(before or b"")
