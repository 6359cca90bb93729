"""A transaction larger than a claim: the claimed part, and the place of the remaining rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson


@dataclass(frozen=True, slots=True)
class PartialTransaction:
    """Hold the progress of the claims in a transaction that takes several claims.

    ``counts``: events claimed so far, by ``schema.table``, in the order of their first appearance. ``last_id``: the
    greatest claimed outbox id of the transaction. ``end_id``: the greatest outbox id of the transaction.
    """

    tx: str
    last_id: int
    end_id: int
    counts: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the JSON text for the database."""
        return orjson.dumps(
            {"tx": self.tx, "last_id": self.last_id, "end_id": self.end_id, "counts": self.counts}
        ).decode()

    @staticmethod
    def from_json(text: str | None) -> PartialTransaction | None:
        """Return the transaction from the JSON text, or None without a text."""
        if text is None:
            return None
        data = orjson.loads(text)
        return PartialTransaction(data["tx"], data["last_id"], data["end_id"], data["counts"])
