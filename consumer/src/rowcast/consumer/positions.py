"""Where the worker is: rows in the replica, written in the transaction that applies the events they count.

The row of ``rowcast_replica`` is what makes a worker the only one: each that takes over adds one to ``epoch``, and
every transaction first compares it. A zombie's does not compare, so that its rows roll back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.changes import Partition
from rowcast.consumer.dialects import ReplicaDialect
from rowcast.shared.errors import FencedError

State = Literal["loading", "consistent"]


class Position(NamedTuple):
    """The offset to read next in a partition, and the greatest lsn applied from it."""

    next_offset: int
    lsn: int


class Applied(NamedTuple):
    """What a transaction of the worker leaves applied last: its lsn, its id, the primary's time in milliseconds."""

    lsn: int
    tx: str | None
    ts_ms: int


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """The row of ``rowcast_replica``. ``lsn``, ``tx`` and ``ts_ms`` are those of what was applied last."""

    owner: str
    epoch: int
    state: State
    lsn: int
    tx: str | None
    ts_ms: int


def _name(length: int) -> sa.types.TypeEngine[str]:
    """Names compare byte for byte on every engine."""
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


METADATA = sa.MetaData()

REPLICA = sa.Table(
    "rowcast_replica",
    METADATA,
    sa.Column("source", _name(100), primary_key=True),
    sa.Column("owner", _name(255), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("state", _name(16), nullable=False),
    sa.Column("lsn", sa.BigInteger, nullable=False),
    sa.Column("tx", _name(255)),
    sa.Column("ts_ms", sa.BigInteger, nullable=False),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)

POSITION = sa.Table(
    "rowcast_position",
    METADATA,
    sa.Column("source", _name(100), primary_key=True),
    sa.Column("topic", _name(249), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
    sa.Column("lsn", sa.BigInteger, nullable=False),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)

TABLE = sa.Table(
    "rowcast_table",
    METADATA,
    sa.Column("source", _name(100), primary_key=True),
    sa.Column("table_name", _name(255), primary_key=True),
    sa.Column("shape", sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"), nullable=False),
    # False: the table was there before, and belongs to the user.
    sa.Column("created", sa.Boolean(create_constraint=False), nullable=False),
    mysql_engine="InnoDB",
    mariadb_engine="InnoDB",
)


def create_tables(engine: Engine) -> None:
    """Makes the tables above where they are missing; two workers may do so at once."""
    try:
        METADATA.create_all(engine)
    except exc.DBAPIError:
        # The other one was faster; if that was not it, this raises again.
        METADATA.create_all(engine)


def read_state(connection: Connection, source: str) -> ReplicaState | None:
    """None if no worker has ever run for this source."""
    row = connection.execute(sa.select(REPLICA).where(REPLICA.c.source == source)).one_or_none()
    return None if row is None else ReplicaState(row.owner, row.epoch, row.state, row.lsn, row.tx, row.ts_ms)


def read_positions(connection: Connection, source: str) -> dict[Partition, Position]:
    """Every partition that events have been applied from."""
    rows = connection.execute(sa.select(POSITION).where(POSITION.c.source == source))
    return {(r.topic, r.partition): Position(r.next_offset, r.lsn) for r in rows}


def claim(connection: Connection, source: str, owner: str) -> ReplicaState:
    """Makes ``owner`` the only worker: from here on every earlier one is fenced. The caller ends the transaction."""
    taken = connection.execute(
        sa.update(REPLICA).where(REPLICA.c.source == source).values(owner=owner, epoch=REPLICA.c.epoch + 1)
    )
    if taken.rowcount == 0:
        connection.execute(
            sa.insert(REPLICA).values(source=source, owner=owner, epoch=1, state="loading", lsn=0, tx=None, ts_ms=0)
        )
    state = read_state(connection, source)
    assert state is not None
    return state


class Positions:
    """The positions as one worker, of one epoch, writes them."""

    def __init__(self, source: str, epoch: int, replica: ReplicaDialect) -> None:
        self._source = source
        self._epoch = epoch
        self._replica = replica

    def hold(self, connection: Connection, applied: Applied | None = None) -> None:
        """Compares the epoch, and writes down what the transaction applies; the row stays locked until it ends.

        Raises FencedError if another worker has taken over.
        """
        at = {"s": self._source, "e": self._epoch}
        if applied is None:
            swapped = connection.execute(_HOLD, at)
        else:
            swapped = connection.execute(_HOLD_AND_TELL, at | {"l": applied.lsn, "t": applied.tx, "m": applied.ts_ms})
        if swapped.rowcount != 1:
            raise FencedError(
                f"another worker has taken over the replica of source {self._source!r}; this one's rows are rolled back"
            )

    def change_state(self, connection: Connection, state: State) -> None:
        """Writes the replica's state. Raises FencedError as ``hold`` does."""
        self.hold(connection)
        connection.execute(sa.update(REPLICA).where(REPLICA.c.source == self._source).values(state=state))

    def advance(self, connection: Connection, reach: Mapping[Partition, Position]) -> None:
        """Writes how far these partitions have been applied. Only after ``hold``, in its transaction."""
        if reach:
            rows = [(self._source, *partition, *position) for partition, position in reach.items()]
            self._replica.write_positions(connection, rows)


# Built once: they run in every transaction.
_MINE = (REPLICA.c.source == sa.bindparam("s")) & (REPLICA.c.epoch == sa.bindparam("e"))
_HOLD = sa.update(REPLICA).where(_MINE).values(epoch=REPLICA.c.epoch)
_HOLD_AND_TELL = (
    sa.update(REPLICA).where(_MINE).values(lsn=sa.bindparam("l"), tx=sa.bindparam("t"), ts_ms=sa.bindparam("m"))
)
