"""An outbox in memory, for tests of what the relay chooses to claim."""

from __future__ import annotations

from collections.abc import Collection

from rowcast.producer.relay.reading import Head


class FakeOutbox:
    """The rows that are visible now, by id. ``scans`` counts reads of more than a claim's worth."""

    def __init__(self) -> None:
        self.visible: dict[int, Head] = {}
        self.scans = 0

    def add(self, *heads: Head) -> None:
        self.visible |= {head.id: head for head in heads}

    def heads(self, limit: int, without: range = range(0), above: int = 0) -> list[Head]:
        there = (head for head in self.visible.values() if head.id not in without)
        return sorted(there, key=lambda head: head.id)[:limit]

    def heads_of(self, tx: str, after_id: int, end_id: int, limit: int) -> list[Head]:
        rows = self.heads(len(self.visible))
        return [head for head in rows if head.tx == tx and after_id < head.id <= end_id][:limit]

    def going_on(self, transactions: Collection[str], after_id: int) -> set[str]:
        return {head.tx for head in self.visible.values() if head.id > after_id and head.tx in transactions}

    def first_to_end(self, from_id: int, claimed: Collection[int]) -> tuple[str, int]:
        self.scans += 1
        ends = self.ends(from_id)
        return next((tx, end) for tx, end in ends.items() if end not in claimed)

    def ends(self, from_id: int = 0) -> dict[str, int]:
        """The greatest id of each transaction, the least first."""
        ends: dict[str, int] = {}
        for head in self.heads(len(self.visible)):
            if head.id >= from_id:
                ends[head.tx] = head.id
        return dict(sorted(ends.items(), key=lambda item: item[1]))
