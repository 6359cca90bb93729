"""Where the transactions that wait in the outbox end: one look through all of it serves many claims.

Nothing is marked there that triggers have written, and no index leads to a transaction's rows: every INSERT of the
application would pay for it. But what a look has told of a transaction stays true, since all its rows become visible at
once and none comes after them:

* PostgreSQL and MariaDB: a statement, like a snapshot, sees all that a transaction has written or nothing; nothing is
  written in the name of one that has committed, and no name is given again.
* SQLite: the same, but those who come after may go on writing under the triggers' token. Rows under the present one are
  left out, by the same statement; one that has been replaced is not used again.

Nor does what becomes visible later have to come earlier: see ``selection``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol


class Searchable(Protocol):
    """What ``reading.Outbox`` offers."""

    def ends(self, from_id: int, claimed: Collection[int], most: int) -> list[tuple[str, int, int]]: ...


class Ends:
    """Of transactions that are not claimed those that end first, as the last look told: ``most``, so that they fit into
    memory whatever waits."""

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._found: dict[str, tuple[int, int]] = {}

    def look(self, outbox: Searchable, from_id: int, claimed: Collection[int]) -> None:
        """Learns all anew; as ``reading.Outbox.ends``."""
        self._found = {tx: (end_id, rows) for tx, end_id, rows in outbox.ends(from_id, claimed, self._most)}

    def of(self, tx: str) -> int:
        """The transaction's greatest id; 0 if that is not known."""
        return self._found.get(tx, (0, 0))[0]

    def first(self, rows: int) -> tuple[list[str], int]:
        """The transactions that end first, and the last of their ends: so many that they have at most so many rows
        together, or a single one; none if none is known."""
        transactions: list[str] = []
        last = 0
        for tx, (end_id, count) in self._found.items():
            rows -= count
            if transactions and rows < 0:
                break
            transactions.append(tx)
            last = end_id
        return transactions, last

    def forget(self, transactions: Iterable[str]) -> None:
        """They are claimed."""
        if self._found:
            for tx in transactions:
                self._found.pop(tx, None)
