"""Keep accounts with balances and the transfers between them.

In every committed state the balances fit the transfers.
"""

from __future__ import annotations

import random

import sqlalchemy as sa
from sqlalchemy.orm import Session

ACCOUNTS = 8
OPENING = 1_000


class Ledger:
    """Write the transfers of one writer, numbered without a gap."""

    def __init__(self, metadata: sa.MetaData, writer: int) -> None:
        self.accounts = sa.Table(
            "accounts",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("balance", sa.Integer, nullable=False),
        )
        self.transfers = sa.Table(
            "transfers",
            metadata,
            sa.Column("writer", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("giver_id", sa.ForeignKey("accounts.id"), nullable=False),
            sa.Column("taker_id", sa.ForeignKey("accounts.id"), nullable=False),
            sa.Column("amount", sa.Integer, nullable=False),
        )
        self._writer = writer
        self._number = 0
        self._committed = 0

    def open(self, session: Session) -> None:
        session.execute(sa.insert(self.accounts), [{"id": i, "balance": OPENING} for i in range(ACCOUNTS)])

    def is_open(self, connection: sa.Connection) -> bool:
        """Return whether the accounts exist. Before the first transaction there are none."""
        return connection.scalar(sa.select(sa.exists().where(self.accounts.c.id == 0))) or False

    def go_on_from(self, session: Session) -> None:
        """Continue after the last committed transfer of a writer that was killed."""
        number = self.transfers.c.number
        found = session.scalar(sa.select(sa.func.max(number)).where(self.transfers.c.writer == self._writer))
        self._number = self._committed = found or 0

    def transfer(self, session: Session, choose: random.Random) -> None:
        """Write a transfer in the session's transaction.

        The last transfer counts as committed unless ``rolled_back`` was called.
        """
        self._committed = self._number
        self._number += 1
        # The accounts are always changed in order of id. Otherwise two writers would wait for each other.
        first, second = sorted(choose.sample(range(ACCOUNTS), 2))
        giver, taker = choose.sample((first, second), 2)
        amount = choose.randrange(1, 100)
        for account, change in sorted(((giver, -amount), (taker, amount))):
            session.execute(
                sa.update(self.accounts)
                .where(self.accounts.c.id == account)
                .values(balance=self.accounts.c.balance + change)
            )
        session.execute(
            sa.insert(self.transfers).values(
                writer=self._writer, number=self._number, giver_id=giver, taker_id=taker, amount=amount
            )
        )

    def rolled_back(self) -> None:
        """Forget the last transfer, because its transaction was rolled back."""
        self._number = self._committed

    def must_balance(self, connection: sa.Connection) -> int:
        """Check that every balance fits the transfers and no transfer is missing. Return the number of transfers.

        ``connection`` must read a single state of the database throughout.
        """
        expected = dict.fromkeys(range(ACCOUNTS), OPENING)
        numbers: dict[int, list[int]] = {}
        transfers = connection.execute(sa.select(self.transfers)).all()
        for transfer in transfers:
            expected[transfer.giver_id] -= transfer.amount
            expected[transfer.taker_id] += transfer.amount
            numbers.setdefault(transfer.writer, []).append(transfer.number)
        balances = {row.id: row.balance for row in connection.execute(sa.select(self.accounts))}
        assert balances == expected, "no transaction of the primary's ended in this state"
        for writer, found in numbers.items():
            assert sorted(found) == list(range(1, len(found) + 1)), f"transfers of writer {writer} are missing"
        return len(transfers)
