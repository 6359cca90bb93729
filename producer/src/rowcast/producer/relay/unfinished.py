"""A transaction larger than a claim: what is published of it, and what is still to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson


@dataclass(frozen=True, slots=True)
class Unfinished:
    """``counts``: events published so far, by ``schema.table`` in order of first appearance. ``last_id``: the greatest
    outbox id claimed of the transaction; ``end_id``: the greatest it has, so that nobody looks for more behind it."""

    tx: str
    last_id: int
    end_id: int
    counts: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        return orjson.dumps(
            {"tx": self.tx, "last_id": self.last_id, "end_id": self.end_id, "counts": self.counts}
        ).decode()

    @staticmethod
    def from_json(text: str | None) -> Unfinished | None:
        if text is None:
            return None
        data = orjson.loads(text)
        return Unfinished(data["tx"], data["last_id"], data["end_id"], data["counts"])
