"""The rows and positions of the processes that fill the fresh tables, in the worker's tables of the replica.

The positions also hold the division: each partition of a share has a position from the beginning. Therefore a rebuild
that was interrupted goes on with the same division, and a partition added since is noticed.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.replica.dialects.naming import share_source
from rowcast.consumer.replica.part import share_sources
from rowcast.consumer.replica.positions import ReplicaRow
from rowcast.consumer.replica.worker_tables import ROWCAST_POSITION, ROWCAST_REPLICA

_ROW, _PLACE = ROWCAST_REPLICA.c, ROWCAST_POSITION.c


class ShareRows:
    """Read and write the rows of all shares. ``source``: the value of ``source`` for the fresh tables.

    Call the writing methods in a transaction of the process that divides the load.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._sources = share_sources(source)

    def read(self, connection: Connection) -> dict[str, dict[Partition, Position]]:
        """Return the positions of each share by ``source``. Empty without a division."""
        rows = connection.execute(sa.select(ROWCAST_POSITION).where(_PLACE.source.in_(self._sources)))
        found: dict[str, dict[Partition, Position]] = {}
        for row in rows:
            found.setdefault(row.source, {})[row.topic, row.partition] = Position(row.next_offset, row.lsn)
        return dict(sorted(found.items()))

    def write(
        self, connection: Connection, shares: Sequence[Mapping[Partition, int]], row: ReplicaRow, timeline: int
    ) -> None:
        """Write a division. ``shares``: the first offsets of the partitions of each share. ``row``: the fresh row.

        The shares take the epoch of the row, so processes of an earlier division are fenced.
        """
        for number, first_offsets in enumerate(shares, 1):
            source = share_source(self._source, number)
            connection.execute(sa.insert(ROWCAST_REPLICA).values(_new_row(source, row, timeline)))
            self._place(connection, source, first_offsets)

    def _place(self, connection: Connection, source: str, first_offsets: Mapping[Partition, int]) -> None:
        rows = [
            {"source": source, "topic": topic, "partition": number, "next_offset": first, "lsn": 0}
            for (topic, number), first in first_offsets.items()
        ]
        connection.execute(sa.insert(ROWCAST_POSITION), rows)

    def adopt(self, connection: Connection, epoch: int) -> None:
        """Give all shares another epoch, so processes of an earlier run are fenced."""
        connection.execute(sa.update(ROWCAST_REPLICA).where(_row_of(self._sources)).values(epoch=epoch))

    def begin_again(self, connection: Connection, first_offsets: Mapping[Partition, int]) -> None:
        """Give one share all partitions of a topic, to be read from the start. ``first_offsets``: the partitions."""
        ((topic),) = {topic for topic, _ in first_offsets}
        connection.execute(sa.delete(ROWCAST_POSITION).where(_PLACE.source.in_(self._sources), _PLACE.topic == topic))
        held = self.read(connection)
        sources = connection.scalars(sa.select(_ROW.source).where(_row_of(self._sources))).all()
        self._place(connection, min(sources, key=lambda source: len(held.get(source, ()))), first_offsets)

    def collect(self, connection: Connection) -> None:
        """Give the fresh tables the positions of all shares, and delete the rows of the shares."""
        last = connection.execute(
            sa.select(_ROW.lsn, _ROW.tx, _ROW.ts_ms).where(_row_of(self._sources)).order_by(_ROW.lsn.desc()).limit(1)
        ).one()
        known_ms = connection.scalar(sa.select(sa.func.min(_ROW.deletes_known_ms)).where(_row_of(self._sources)))
        values = {"lsn": last.lsn, "tx": last.tx, "ts_ms": last.ts_ms, "deletes_known_ms": known_ms}
        connection.execute(sa.update(ROWCAST_REPLICA).where(_ROW.source == self._source).values(values))
        places = sa.update(ROWCAST_POSITION).where(_PLACE.source.in_(self._sources))
        connection.execute(places.values(source=self._source))
        connection.execute(sa.delete(ROWCAST_REPLICA).where(_row_of(self._sources)))


def discard_shares(connection: Connection, source: str) -> None:
    """Delete the rows and positions of all shares of a value of ``source``, in the caller's transaction."""
    sources = share_sources(source)
    connection.execute(sa.delete(ROWCAST_REPLICA).where(_row_of(sources)))
    connection.execute(sa.delete(ROWCAST_POSITION).where(_PLACE.source.in_(sources)))


def _row_of(sources: Sequence[str]) -> sa.ColumnElement[bool]:
    return _ROW.source.in_(sources)


def _new_row(source: str, row: ReplicaRow, timeline: int) -> dict[str, object]:
    return {
        "source": source,
        "owner": row.owner,
        "epoch": row.epoch,
        "state": "loading",
        "lsn": 0,
        "tx": None,
        "ts_ms": 0,
        "timeline": timeline,
        "stamp": secrets.randbelow(2**62),
        "deletes_known_ms": row.deletes_known_ms,
        "first_lsn": row.first_lsn,
    }
