"""Keep an outbox in memory, for tests of the relay's choice of what to claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from rowcast.producer.relay.claims.outbox_reader import Head


class FakeOutbox:
    """Hold the outbox rows that are visible now, by id. ``scans``: the number of reads beyond the size of a claim."""

    def __init__(self) -> None:
        self.visible: dict[int, Head] = {}
        self.scans = 0

    def add(self, *heads: Head) -> None:
        self.visible |= {head.id: head for head in heads}

    def heads(self, limit: int, without: range = range(0), above: int = 0) -> list[Head]:
        there = (head for head in self.visible.values() if head.id not in without)
        return sorted(there, key=lambda head: head.id)[:limit]

    def heads_of(self, transactions: Collection[str], after_id: int, end_id: int, limit: int) -> list[Head]:
        rows = self.heads(len(self.visible))
        return [head for head in rows if head.tx in transactions and after_id < head.id <= end_id][:limit]

    def transaction_ends(self, from_id: int, claimed: Collection[int], most: int) -> list[tuple[str, int, int]]:
        self.scans += 1
        rows = Counter(head.tx for head in self.visible.values() if head.id >= from_id)
        ends = [(tx, end_id, rows[tx]) for tx, end_id in self.by_end().items() if tx in rows]
        return [end for end in ends[: most + len(claimed)] if end[1] not in claimed]

    def by_end(self) -> dict[str, int]:
        """Return the highest id of each transaction, ordered by id."""
        ends = {head.tx: head.id for head in self.heads(len(self.visible))}
        return dict(sorted(ends.items(), key=lambda item: item[1]))
