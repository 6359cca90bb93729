"""Remember where the waiting transactions end, so that one scan of the outbox serves many claims.

Triggers cannot mark the last row of a transaction. No index finds the rows of a transaction, because each INSERT of the
application would pay for the index. A scan groups the rows by transaction instead. The result stays valid, because all
rows of a transaction become visible at once and no further row follows:

* PostgreSQL and MariaDB: a statement sees all rows of a transaction or no row. A committed transaction writes no more
  rows, and no later transaction gets its name.
* SQLite: the next transactions may still write rows under the current token of the triggers. The scan leaves out rows
  under the current token. A replaced token is never used again.

Rows that become visible after the scan need not be published earlier. The module ``selection`` gives the reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

MAX_TRANSACTIONS = 50_000


class HasTransactionEnds(Protocol):
    """Declare the method of ``OutboxReader`` that a scan needs."""

    def transaction_ends(self, from_id: int, claimed: Collection[int], most: int) -> list[tuple[str, int, int]]:
        """Return name, end id and number of rows of the transactions that end first."""


class TransactionEnds:
    """Cache the end ids of unclaimed transactions, from the last scan of the outbox.

    The end id of a transaction is its greatest outbox id. The cache holds at most ``most`` transactions, with the
    lowest end ids, so that a backlog of any size fits into memory.
    """

    def __init__(self, most: int = MAX_TRANSACTIONS) -> None:
        self._most = most
        self._found: dict[str, tuple[int, int]] = {}

    def scan(self, outbox: HasTransactionEnds, from_id: int, claimed: Collection[int]) -> None:
        """Replace the cache by a new scan of the outbox. Parameters as in ``OutboxReader.transaction_ends``."""
        found = outbox.transaction_ends(from_id, claimed, self._most)
        self._found = {tx: (end_id, rows) for tx, end_id, rows in found}

    def end_of(self, tx: str) -> int:
        """Return the end id of the transaction, or 0 if it is not cached."""
        return self._found.get(tx, (0, 0))[0]

    def first_transactions(self, max_rows: int) -> tuple[list[str], int]:
        """Return the cached transactions with the lowest end ids, and the highest of their end ids.

        Together they have at most ``max_rows`` rows, but a single transaction may have more. Returns ``([], 0)`` if no
        transaction is cached.
        """
        transactions: list[str] = []
        last_end = 0
        rows = 0
        for tx, (end_id, count) in self._found.items():
            rows += count
            if transactions and rows > max_rows:
                break
            transactions.append(tx)
            last_end = end_id
        return transactions, last_end

    def drop(self, transactions: Iterable[str]) -> None:
        """Remove transactions from the cache, because they are claimed."""
        if self._found:
            for tx in transactions:
                self._found.pop(tx, None)
