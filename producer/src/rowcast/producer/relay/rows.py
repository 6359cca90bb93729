"""Outbox rows to be published: read, split, and looked at for what cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from rowcast.producer.relay.batches import BatchRow, UnpublishableError, heads_in, split_row
from rowcast.producer.relay.blocks import ChangeSplitter
from rowcast.producer.relay.connect_images import ConnectImages
from rowcast.producer.relay.envelopes import Envelopes
from rowcast.producer.relay.lines import Change, LineHead
from rowcast.producer.relay.reading import Head, Outbox
from rowcast.producer.relay.sizes import MEND, SizeLimits
from rowcast.producer.relay.tables import Tables
from rowcast.shared.errors import DataError

_LARGE = 1024 * 1024
"""So many bytes of rows may take some time to come."""


class Rows:
    """One leader's. ``prepare`` sees that Kafka has what must be there before events with these heads; ``images``, if
    any, bring rows into their form."""

    def __init__(
        self,
        outbox: Outbox,
        tables: Tables,
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

    def read(self, ids: Sequence[int], heads: Sequence[Head] = ()) -> list[BatchRow]:
        """Those that are there, in this order; ``heads`` may have some of them. Raises UnpublishableError for a row
        that is damaged."""
        found = {head.id: head.row for head in heads if head.row is not None}
        if others := [id_ for id_ in ids if id_ not in found]:
            large = not heads or sum(head.size for head in heads if head.row is None) >= _LARGE
            found |= {row.id: row for row in self._outbox.rows(others, large=large)}
        rows = [split_row(found[id_], self._splitter) for id_ in ids if id_ in found]
        for row, head in heads_in(rows):
            try:
                self._tables.of(head)
            except DataError as error:
                raise UnpublishableError(row.id, row.tx, str(error)) from error
        return rows if self._images is None else [self._images.row(row) for row in rows]

    def check_sizes(self, rows: Sequence[BatchRow], heads: Sequence[Head], lsn: int) -> None:
        """Raises UnpublishableError for a row with a change that Kafka does not take. ``lsn``: about what it will have.

        Rows far smaller than Kafka's limits, which are nearly all, cost nothing.
        """
        schema = self._envelopes.schema_bytes(head for _, head in heads_in(rows))
        suspects = {head.id for head in heads if self._limits.concern(head.size + schema)}
        large = [r for r in rows if r.id in suspects and self._limits.concern(max(map(_size, r.changes)) + schema)]
        if not large:
            return
        # Only of a topic that is there the limit is known.
        self._prepare({head for _, head in heads_in(large)})
        now_ms = time.time_ns() // 1_000_000
        for row in large:
            for change, message in self._envelopes.events(row, lsn, now_ms):
                if (reason := self._limits.excess(message)) is not None:
                    raise UnpublishableError(row.id, row.tx, f"table {change[0].table}: {reason}", MEND)

    def excess_of(self, changes: Sequence[Change], largest: int, lsn: int) -> str | None:
        """Why Kafka does not take one of a chunk's rows; None if it takes all. ``largest``: see ``Chunk``."""
        schema = self._envelopes.schema_bytes(head for head, *_ in changes[:1])
        if not self._limits.concern(largest + schema):
            return None
        large = [change for change in changes if self._limits.concern(_size(change) + schema)]
        if large:
            self._prepare({head for head, *_ in large})
        for message in self._envelopes.rows_read(large, lsn, time.time_ns() // 1_000_000):
            if reason := self._limits.excess(message):
                return f"{reason}. {MEND.capitalize()}, and ask for the snapshot again"
        return None


def _size(change: Change) -> int:
    _, key, after, before = change
    return len(key) + len(after or b"") + len(before or b"")
