"""Claims: which outbox rows go out under which lsns, written down before anything is produced.

After a crash the successor finds them and publishes those that Kafka has not committed again, with the same lsns.
The rows and their claim are deleted only when Kafka has committed them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import orjson
import sqlalchemy as sa

from rowcast.producer.outbox import OutboxTables
from rowcast.producer.ready_statements import ReadyStatement
from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.lease import Lease, LeaseRow
from rowcast.producer.relay.reading import Outbox
from rowcast.producer.relay.unfinished import Unfinished
from rowcast.producer.snapshots import Snapshots


@dataclass(frozen=True, slots=True)
class ClaimedChunk:
    """A chunk of a snapshot: ``rows`` up to ``last_key`` (None: it is the last)."""

    snapshot: int
    last_key: str | None
    rows: int

    def to_json(self) -> str:
        return orjson.dumps({"snapshot": self.snapshot, "last_key": self.last_key, "rows": self.rows}).decode()

    @staticmethod
    def from_json(text: str | None) -> ClaimedChunk | None:
        return None if text is None else ClaimedChunk(**orjson.loads(text))


@dataclass(frozen=True, slots=True)
class Claim:
    """``outbox_ids`` in the order of publishing take the lsns ``first_lsn`` to ``last_lsn``, BEGIN and END included.

    ``carried``: the transaction that the claim before left unfinished and this one goes on with; ``unfinished``: the
    one that this claim leaves. ``chunk``: what it is for in place of outbox rows.
    """

    first_lsn: int
    last_lsn: int
    outbox_ids: tuple[int, ...]
    carried: Unfinished | None
    unfinished: Unfinished | None
    chunk: ClaimedChunk | None = None


class Claims:
    """The claims of the leader of one epoch. ``lease`` is the row as this leader wrote it last."""

    def __init__(
        self, connections: Connections, tables: OutboxTables, lease_row: LeaseRow, outbox: Outbox, lease: Lease
    ) -> None:
        self._connections = connections
        self._table = tables.claim
        self._snapshots = Snapshots(tables)
        self._lease_row = lease_row
        self._outbox = outbox
        self._pending: list[Claim] = self._recorded()
        self._published: list[Claim] = []
        self._claimed = {id_ for claim in self._pending for id_ in claim.outbox_ids}
        self._at_once = None
        if connections.dialect.name == "postgresql":
            at_once = sa.text(_AT_ONCE.format(swap=lease_row.swap_sql))
            self._at_once = ReadyStatement(at_once, connections.dialect)
        self.lease = lease

    def _recorded(self) -> list[Claim]:
        row = self._table.c
        found = self._connections.reader.execute(
            sa.select(
                row.first_lsn, row.last_lsn, row.outbox_ids, row.carried, row.left_unfinished, row.chunk
            ).order_by(row.first_lsn)
        )
        return [
            Claim(
                first, last, tuple(orjson.loads(ids)), Unfinished.from_json(carried), Unfinished.from_json(unfinished),
                ClaimedChunk.from_json(chunk),
            )
            for first, last, ids, carried, unfinished, chunk in found
        ]  # fmt: skip

    @property
    def pending(self) -> Sequence[Claim]:
        """Those that Kafka is not known to have committed, in order."""
        return self._pending

    @property
    def claimed(self) -> Collection[int]:
        """The outbox ids of every claim whose rows are not deleted yet."""
        return self._claimed

    @property
    def unfinished(self) -> Unfinished | None:
        """The transaction that the last claim left unfinished."""
        return Unfinished.from_json(self.lease.carried)

    def committed(self, lsn: int) -> None:
        """Kafka has committed everything up to ``lsn``: ``settle`` or the next ``record`` deletes it."""
        self._published += [claim for claim in self._pending if claim.last_lsn <= lsn]
        self._pending = [claim for claim in self._pending if claim.last_lsn > lsn]

    def drop_chunks(self) -> None:
        """Chunks that Kafka has not committed are read again, behind all that was claimed: their rows may be others by
        then. Raises FencedError if another relay has taken over."""
        if dropped := [claim for claim in self._pending if claim.chunk is not None]:
            with self._connections.writer.begin():
                self._lease_row.swap(self.lease, self.lease)
                self._delete(dropped)
            self._pending = [claim for claim in self._pending if claim.chunk is None]

    def park(self, outbox_ids: Sequence[int], reason: str) -> None:
        """Moves all rows of a transaction, none of which was ever claimed, out of the outbox: nobody has seen anything
        of it, and nobody will. Raises FencedError if another relay has taken over, RetriableError if one has gone."""
        assert self._claimed.isdisjoint(outbox_ids)
        with self._connections.writer.begin():
            # The rows may be others' by now: a successor may have claimed what it takes for publishable.
            self._lease_row.swap(self.lease, self.lease)
            self._outbox.park(outbox_ids, reason)

    def record(
        self, outbox_ids: Sequence[int], lsns: int, unfinished: Unfinished | None, chunk: ClaimedChunk | None = None
    ) -> Claim:
        """Writes the next claim, which takes ``lsns`` lsns. Raises FencedError if another relay has taken over."""
        lease = self.lease
        claim = Claim(
            lease.next_lsn,
            lease.next_lsn + lsns - 1,
            tuple(outbox_ids),
            Unfinished.from_json(lease.carried),
            unfinished,
            chunk,
        )
        carried = unfinished.to_json() if unfinished else None
        self._write(Lease(lease.epoch, lease.next_lsn + lsns, self._published_lsn(), carried), claim)
        self._pending.append(claim)
        self._claimed.update(outbox_ids)
        return claim

    def settle(self) -> None:
        """Deletes what Kafka has committed. Raises FencedError if another relay has taken over."""
        if self._published:
            self._write(Lease(self.lease.epoch, self.lease.next_lsn, self._published_lsn(), self.lease.carried), None)

    def start_above(self, lsn: int) -> None:
        """The next lsn is above ``lsn``. Raises FencedError if another relay has taken over."""
        self._write(Lease(self.lease.epoch, lsn + 1, self._published_lsn(), self.lease.carried), None)

    def renew(self) -> None:
        """A sign of life. Raises FencedError if another relay has taken over."""
        self._lease_row.renew(self.lease)

    def _published_lsn(self) -> int:
        return self._published[-1].last_lsn if self._published else self.lease.published_lsn

    def _write(self, next_: Lease, claim: Claim | None) -> None:
        done = [id_ for published in self._published for id_ in published.outbox_ids]
        chunks = [c.chunk for c in (*self._published, *([claim] if claim else ())) if c.chunk is not None]
        if self._at_once is not None and not chunks:
            lsns = [published.first_lsn for published in self._published]
            ((swapped,),) = self._at_once.fetch(
                self._connections.reader,
                self._lease_row.swap_parameters(self.lease, next_)
                | (_as_row(claim) if claim else _NO_CLAIM)
                | {"done_lsns": lsns, "done_ids": done},
            )
            if not swapped:
                raise self._lease_row.fenced()
        else:
            self._write_step_by_step(next_, claim, done)
        self.lease = next_
        self._published.clear()
        self._claimed.difference_update(done)

    def _write_step_by_step(self, next_: Lease, claim: Claim | None, done: Sequence[int]) -> None:
        writer = self._connections.writer
        with writer.begin():
            # First: whoever is fenced must not get as far as a delete.
            self._lease_row.swap(self.lease, next_)
            if claim is not None:
                writer.execute(sa.insert(self._table), _as_row(claim))
            if self._published:
                self._delete(self._published)
            if done:
                self._outbox.delete(done)
            for published in self._published:
                if published.chunk is not None:
                    chunk = published.chunk
                    self._snapshots.advance(writer, chunk.snapshot, chunk.last_key, chunk.rows)

    def _delete(self, claims: Sequence[Claim]) -> None:
        """Runs in a transaction of the writer."""
        self._connections.writer.execute(
            sa.delete(self._table).where(self._table.c.first_lsn == sa.bindparam("lsn")),
            [{"lsn": claim.first_lsn} for claim in claims],
        )


# The same in one statement, and so one round trip instead of six, where an engine can: it is in the way of every event.
# Whoever is fenced swaps nothing, and so inserts and deletes nothing.
_AT_ONCE = """
WITH swapped AS ({swap} RETURNING 1),
  recorded AS (
    INSERT INTO rowcast_claim (first_lsn, last_lsn, outbox_ids, carried, left_unfinished)
    SELECT CAST(:first_lsn AS bigint), CAST(:last_lsn AS bigint), :outbox_ids, :carried, :left_unfinished
    FROM swapped WHERE CAST(:first_lsn AS bigint) IS NOT NULL
  ),
  forgotten AS (
    DELETE FROM rowcast_claim
    WHERE first_lsn = ANY(CAST(:done_lsns AS bigint[])) AND EXISTS (SELECT FROM swapped)
  ),
  deleted AS (
    DELETE FROM rowcast_outbox WHERE id = ANY(CAST(:done_ids AS bigint[])) AND EXISTS (SELECT FROM swapped)
  )
SELECT count(*) FROM swapped
"""
_NO_CLAIM = dict.fromkeys(("first_lsn", "last_lsn", "outbox_ids", "carried", "left_unfinished", "chunk"))


def _as_row(claim: Claim) -> dict[str, object]:
    return {
        "first_lsn": claim.first_lsn,
        "last_lsn": claim.last_lsn,
        "outbox_ids": orjson.dumps(claim.outbox_ids).decode(),
        "carried": claim.carried.to_json() if claim.carried else None,
        "left_unfinished": claim.unfinished.to_json() if claim.unfinished else None,
        "chunk": claim.chunk.to_json() if claim.chunk else None,
    }
