"""A bank whose every committed state can be checked: what the balances are to be, and which transfers must exist."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from rowcast.producer import Capture
from rowcast.shared.cli.signals import stop_on_signals

SOURCE = "bank"
ACCOUNTS = 12
OPENING = 1_000
KEPT = 200
"""A writer settles its older transfers: their sums move to the accounts, so that tables stay small."""
_SETTLED_AT_ONCE = 50
_PAUSE_S = 0.1

metadata = sa.MetaData()
account = sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("balance", sa.Integer, nullable=False),
    sa.Column("settled", sa.Integer, nullable=False),
)
writer = sa.Table(
    "writer",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("settled", sa.Integer, nullable=False),
)
transfer = sa.Table(
    "transfer",
    metadata,
    sa.Column("writer_id", sa.ForeignKey("writer.id"), primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("giver_id", sa.ForeignKey("account.id"), nullable=False),
    sa.Column("taker_id", sa.ForeignKey("account.id"), nullable=False),
    sa.Column("amount", sa.Integer, nullable=False),
)
receipt = sa.Table(
    "receipt",
    metadata,
    sa.Column("writer_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.String(80), nullable=False),
    sa.ForeignKeyConstraint(["writer_id", "number"], ["transfer.writer_id", "transfer.number"], ondelete="CASCADE"),
)
TABLES = (account, writer, transfer, receipt)

_IN = sa.select(transfer.c.taker_id, sa.func.sum(transfer.c.amount)).group_by(transfer.c.taker_id)
_OUT = sa.select(transfer.c.giver_id, sa.func.sum(transfer.c.amount)).group_by(transfer.c.giver_id)
_NUMBERS = (
    sa.select(writer.c.id, writer.c.settled, sa.func.count(transfer.c.number), sa.func.max(transfer.c.number))
    .outerjoin(transfer, transfer.c.writer_id == writer.c.id)
    .group_by(writer.c.id, writer.c.settled)
)
_ORPHANS: dict[str, sa.Select[int]] = {
    "receipts without a transfer": sa.select(sa.func.count())
    .select_from(receipt.outerjoin(transfer))
    .where(transfer.c.number.is_(None)),
    "transfers without a receipt": sa.select(sa.func.count())
    .select_from(transfer.outerjoin(receipt))
    .where(receipt.c.number.is_(None)),
    "transfers without a writer": sa.select(sa.func.count())
    .select_from(transfer.outerjoin(writer))
    .where(writer.c.id.is_(None)),
    "transfers without their account": sa.select(sa.func.count()).where(
        transfer.c.giver_id.not_in(sa.select(account.c.id)) | transfer.c.taker_id.not_in(sa.select(account.c.id))
    ),
}


@dataclass(frozen=True)
class Reading:
    """Hold what a reader found in one state of a database.

    ``last``: the number of each writer's last transfer. ``wrong``: why no transaction of the bank ended in this state.
    """

    last: Mapping[int, int]
    wrong: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Return whether not even the writers are there."""
        return not self.last


def read(connection: sa.Connection) -> Reading:
    """Read and check the bank. ``connection`` must read a single state of the database throughout."""
    wrong: list[str] = []
    accounts = {row.id: row for row in connection.execute(sa.select(account))}
    moved = dict.fromkeys(accounts, 0)
    for statement, sign in ((_IN, 1), (_OUT, -1)):
        for id_, amount in connection.execute(statement):
            moved[id_] = moved.get(id_, 0) + sign * int(amount)
    if len(accounts) != ACCOUNTS:
        wrong.append(f"{len(accounts)} accounts for {ACCOUNTS}")
    if (total := sum(row.balance for row in accounts.values())) != ACCOUNTS * OPENING:
        wrong.append(f"the balances are {total} together, for {ACCOUNTS * OPENING}")
    wrong += [
        f"account {row.id} has {row.balance}, and its transfers make {OPENING + row.settled + moved[row.id]}"
        for row in accounts.values()
        if row.balance != OPENING + row.settled + moved[row.id]
    ]
    last = {}
    for id_, settled, count, highest in connection.execute(_NUMBERS):
        last[id_] = highest or settled
        if count != last[id_] - settled:
            wrong.append(f"writer {id_} has {count} transfers for {last[id_] - settled}")
    for what, orphans in _ORPHANS.items():
        if found := connection.scalar(orphans):
            wrong.append(f"{found} {what}")
    return Reading(last, tuple(wrong))


def open_bank(engine: sa.Engine, writers: int) -> None:
    """Create the tables and the accounts, captured."""
    sessions = sessionmaker(engine)
    Capture(metadata, source=SOURCE).install(sessions)
    metadata.create_all(engine)
    with sessions.begin() as session:
        fill(session, writers)


def fill(session: Session, writers: int) -> None:
    """Insert the accounts and the writers, numbered from 1."""
    session.execute(sa.insert(account), [{"id": n, "balance": OPENING, "settled": 0} for n in range(ACCOUNTS)])
    session.execute(sa.insert(writer), [{"id": n, "settled": 0} for n in range(1, writers + 1)])


class Writer:
    """Write the transfers of one writer, numbered without a gap."""

    def __init__(self, sessions: sessionmaker[Session], number: int, seed: int) -> None:
        self._sessions = sessions
        self._id = number
        self._random = random.Random(seed)

    def step(self) -> None:
        """Run one transaction: a transfer, or the settlement of old ones."""
        with self._sessions.begin() as session:
            settled = session.scalar(sa.select(writer.c.settled).where(writer.c.id == self._id))
            if settled is None:
                raise RuntimeError(f"writer {self._id} is missing")
            highest = session.scalar(sa.select(sa.func.max(transfer.c.number)).where(transfer.c.writer_id == self._id))
            last = highest or settled
            if last - settled >= KEPT + _SETTLED_AT_ONCE:
                self._settle(session, settled + _SETTLED_AT_ONCE)
            else:
                self._transfer(session, last + 1)

    def _transfer(self, session: Session, number: int) -> None:
        giver, taker = self._random.sample(range(ACCOUNTS), 2)
        amount = self._random.randrange(1, 100)
        # The accounts are always changed in order of id. Otherwise two writers would wait for each other.
        for id_, change in sorted(((giver, -amount), (taker, amount))):
            session.execute(sa.update(account).where(account.c.id == id_).values(balance=account.c.balance + change))
        key = {"writer_id": self._id, "number": number}
        session.execute(sa.insert(transfer).values(**key, giver_id=giver, taker_id=taker, amount=amount))
        session.execute(sa.insert(receipt).values(**key, text=f"{amount} from {giver} to {taker}"))

    def _settle(self, session: Session, upto: int) -> None:
        old = (transfer.c.writer_id == self._id) & (transfer.c.number <= upto)
        moved = dict.fromkeys(range(ACCOUNTS), 0)
        for row in session.execute(sa.select(transfer).where(old)):
            moved[row.taker_id] += row.amount
            moved[row.giver_id] -= row.amount
        for id_, change in moved.items():
            session.execute(sa.update(account).where(account.c.id == id_).values(settled=account.c.settled + change))
        session.execute(sa.delete(transfer).where(old))
        session.execute(sa.update(writer).where(writer.c.id == self._id).values(settled=upto))


def write_until_stopped(url: str, number: int, seed: int, stop: threading.Event) -> None:
    """Write until ``stop`` is set. Faults of the database end a transaction, and the next one is tried."""
    engine = sa.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 5})
    sessions = sessionmaker(engine)
    Capture(metadata, source=SOURCE).install(sessions)
    one = Writer(sessions, number, seed)
    print("writing", flush=True)
    while not stop.is_set():
        try:
            one.step()
        except sa.exc.DBAPIError as error:
            print(time.strftime("%H:%M:%S"), type(error).__name__, str(error.orig).splitlines()[:1], flush=True)
            stop.wait(0.3)
        stop.wait(_PAUSE_S)
    engine.dispose()


if __name__ == "__main__":
    with stop_on_signals() as asked:
        write_until_stopped(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), asked)
