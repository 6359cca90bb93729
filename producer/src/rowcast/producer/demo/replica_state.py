"""Read the progress of the replica from both databases, change rows by hand, and throw the replica away."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.producer.demo.models import Account, Customer
from rowcast.producer.demo.workspace import database_file, drop_demo_tables

_NEXT_LSN = sa.text("SELECT next_lsn FROM rowcast_lease WHERE source = :source")
_APPLIED_LSN = sa.text(
    "SELECT max(p.lsn) FROM rowcast_position p JOIN rowcast_replica r ON r.source = p.source "
    "WHERE p.source = :source AND r.state = 'consistent'"
)
_OUTBOX = sa.select(sa.func.count()).select_from(sa.table("rowcast_outbox"))

_STRANGER = 1_000_000
"""An id that no customer of the shop reaches."""

CHANGES_BY_HAND = {"different": 1, "missing": 1, "extra": 1}
"""What ``change_by_hand`` does, in the words of ``rowcast verify --json``."""


class ReplicaState:
    """Compare the positions of both databases."""

    def __init__(self, primary: Engine, replica: Engine, source: str) -> None:
        self._primary = primary
        self._replica = replica
        self._source = source

    def lag(self) -> int | None:
        """Return the number of published records missing in the replica, or None while it is not consistent."""
        with self._primary.connect() as connection:
            next_lsn = connection.scalar(_NEXT_LSN, {"source": self._source})
        # The worker creates this table after rowcast_position.
        if next_lsn is None or not sa.inspect(self._replica).has_table("rowcast_replica"):
            return None
        with self._replica.connect() as connection:
            applied = connection.scalar(_APPLIED_LSN, {"source": self._source})
        return None if applied is None else max(0, next_lsn - 1 - applied)

    def has_accounts(self) -> bool:
        """Return whether the replica is consistent and has a gift card. All gift cards came in one transaction."""
        if self.lag() is None or not sa.inspect(self._replica).has_table(Account.__tablename__):
            return False
        with self._replica.connect() as connection:
            return connection.scalar(sa.select(Account.id).limit(1)) is not None

    def has_caught_up(self) -> bool:
        """Return whether the outbox is empty and the replica has applied the last published record."""
        with self._primary.connect() as connection:
            if connection.scalar(_OUTBOX):
                return False
        return self.lag() == 0


def change_by_hand(replica: Engine, visitor: int) -> None:
    """Change a row, delete a row and add a row, like a person with a SQL shell.

    ``visitor``: the id of a customer without orders. The shop never changes a customer, so only a repair corrects these
    rows.
    """
    customers = Customer.__table__
    with replica.begin() as connection:
        connection.execute(sa.update(Customer).where(Customer.id == visitor - 1).values(name="Changed By Hand"))
        connection.execute(sa.delete(Customer).where(Customer.id == visitor))
        copied = [column for column in customers.c if column.name not in ("id", "email")]
        stranger = sa.select(sa.literal(_STRANGER), sa.literal("stranger@example.org"), *copied)
        names = ["id", "email", *(column.name for column in copied)]
        connection.execute(sa.insert(Customer).from_select(names, stranger.where(Customer.id == visitor - 1)))


def throw_away(replica: Engine) -> None:
    """Delete the database file, or drop the tables of the demo and of its worker on a server."""
    replica.dispose()
    if (file := database_file(replica.url)) is not None:
        for leftover in file.parent.glob(f"{file.name}*"):
            leftover.unlink()
    else:
        drop_demo_tables(replica)
