"""Claims: which outbox rows are published under which lsns, recorded before the relay sends anything.

After a crash the successor reads the claims, and publishes uncommitted claims again under their old lsns. A claim and
its outbox rows are deleted only after Kafka has committed the events.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import orjson
import sqlalchemy as sa

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.precompiled import PrecompiledStatement
from rowcast.producer.outbox.schema import OutboxTables
from rowcast.producer.outbox.snapshot_requests import SnapshotRequests
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.lease import Lease, LeaseRow
from rowcast.producer.relay.claims.outbox_reader import OutboxReader
from rowcast.producer.relay.claims.partial_transaction import PartialTransaction


@dataclass(frozen=True, slots=True)
class ClaimedChunk:
    """Describe the snapshot chunk of a claim.

    ``rows``: number of rows in the chunk. ``last_key``: JSON of the last key, or None for the last chunk of the
    snapshot.
    """

    snapshot: int
    last_key: str | None
    rows: int

    def to_json(self) -> str:
        """Return the JSON text for the claim's row."""
        return orjson.dumps({"snapshot": self.snapshot, "last_key": self.last_key, "rows": self.rows}).decode()

    @staticmethod
    def from_json(text: str | None) -> ClaimedChunk | None:
        """Return the chunk from the JSON text, or None without a text."""
        return None if text is None else ClaimedChunk(**orjson.loads(text))


@dataclass(frozen=True, slots=True)
class Claim:
    """Hold the outbox rows of a claim, in the order of publication, and their lsns.

    The lsns ``first_lsn`` to ``last_lsn`` include BEGIN and END. ``carried_in``: the partial transaction with which the
    claim begins (column ``carried``), or None. ``carried_out``: the partial transaction with which the claim ends
    (column ``left_unfinished``), or None. ``chunk``: the chunk of a snapshot if the claim has no outbox rows.
    """

    first_lsn: int
    last_lsn: int
    outbox_ids: tuple[int, ...]
    carried_in: PartialTransaction | None
    carried_out: PartialTransaction | None
    chunk: ClaimedChunk | None = None


class Claims:
    """Read and write the claims of the leader of one epoch.

    ``lease``: the lease's row after the last write of this leader. Each write raises FencedError and changes nothing if
    another relay has taken over.
    """

    def __init__(
        self, connections: Connections, tables: OutboxTables, lease_row: LeaseRow, outbox: OutboxReader, lease: Lease
    ) -> None:
        self._connections = connections
        self._table = tables.claim
        self._snapshots = SnapshotRequests(tables)
        self._lease_row = lease_row
        self._outbox = outbox
        self._pending: list[Claim] = self._read_recorded()
        self._published: list[Claim] = []
        self._claimed = {id_ for claim in self._pending for id_ in claim.outbox_ids}
        self._fast_write: PrecompiledStatement | None = None
        if capture_dialect(connections.dialect).has_dml_in_ctes:
            fast_write = sa.text(_FAST_WRITE.format(swap=lease_row.swap_sql))
            self._fast_write = PrecompiledStatement(fast_write, connections.dialect)
        self.lease = lease

    def _read_recorded(self) -> list[Claim]:
        row = self._table.c
        found = self._connections.reader.execute(
            sa.select(
                row.first_lsn, row.last_lsn, row.outbox_ids, row.carried, row.left_unfinished, row.chunk
            ).order_by(row.first_lsn)
        )
        return [
            Claim(
                first, last, tuple(orjson.loads(ids)), PartialTransaction.from_json(carried_in),
                PartialTransaction.from_json(carried_out), ClaimedChunk.from_json(chunk),
            )
            for first, last, ids, carried_in, carried_out, chunk in found
        ]  # fmt: skip

    @property
    def pending(self) -> Sequence[Claim]:
        """Return the claims without a known commit in Kafka, in the order of lsns."""
        return self._pending

    @property
    def claimed(self) -> Collection[int]:
        """Return the outbox ids of every claim whose rows are not deleted yet."""
        return self._claimed

    @property
    def partial(self) -> PartialTransaction | None:
        """Return the partial transaction at the end of the last claim, or None."""
        return PartialTransaction.from_json(self.lease.partial)

    def mark_committed(self, lsn: int) -> None:
        """Note that Kafka has committed everything up to ``lsn``. ``settle`` or ``record`` deletes the claims."""
        self._published += [claim for claim in self._pending if claim.last_lsn <= lsn]
        self._pending = [claim for claim in self._pending if claim.last_lsn > lsn]

    def drop_chunks(self) -> None:
        """Delete the pending claims of snapshot chunks.

        The chunks are read again after all remaining claims, because the rows may have changed.
        """
        if dropped := [claim for claim in self._pending if claim.chunk is not None]:
            with self._connections.writer.begin():
                self._lease_row.swap(self.lease, self.lease)
                self._delete(dropped)
            self._pending = [claim for claim in self._pending if claim.chunk is None]

    def park(self, outbox_ids: Sequence[int], reason: str) -> None:
        """Move all rows of a transaction to ``rowcast_parked``. No row of the transaction was ever claimed.

        Raises RetriableError if one of the rows was deleted.
        """
        assert self._claimed.isdisjoint(outbox_ids)
        with self._connections.writer.begin():
            # The lease is checked first, because a successor may have claimed the rows already.
            self._lease_row.swap(self.lease, self.lease)
            self._outbox.park(outbox_ids, reason)

    def record(
        self,
        outbox_ids: Sequence[int],
        lsns: int,
        carried_out: PartialTransaction | None,
        chunk: ClaimedChunk | None = None,
    ) -> Claim:
        """Write the next claim with ``lsns`` lsns. Also delete everything marked as committed."""
        lease = self.lease
        claim = Claim(
            lease.next_lsn,
            lease.next_lsn + lsns - 1,
            tuple(outbox_ids),
            PartialTransaction.from_json(lease.partial),
            carried_out,
            chunk,
        )
        partial = carried_out.to_json() if carried_out else None
        next_ = replace(lease, next_lsn=lease.next_lsn + lsns, published_lsn=self._published_lsn(), partial=partial)
        self._write(next_, claim)
        self._pending.append(claim)
        self._claimed.update(outbox_ids)
        return claim

    def settle(self) -> None:
        """Delete the claims marked as committed, and their outbox rows."""
        if self._published:
            self._write(replace(self.lease, published_lsn=self._published_lsn()), None)

    def begin_timeline(self, number: int, first_lsn: int, committed_lsn: int, chunk_rows: int = 5_000) -> None:
        """Begin a timeline: later claims have lsns from ``first_lsn`` on, and snapshots publish all rows again.

        ``committed_lsn``: the highest lsn that Kafka has committed. Until now more may have been recorded.
        ``chunk_rows``: the rows of a snapshot's chunk.
        """
        next_ = replace(
            self.lease,
            next_lsn=first_lsn,
            published_lsn=min(self.lease.published_lsn, committed_lsn),
            timeline=number,
            timeline_lsn=first_lsn,
        )
        with self._connections.writer.begin():
            self._lease_row.begin_timeline(self.lease, next_)
            self._snapshots.request_again(self._connections.writer, chunk_rows)
        self.lease = next_

    def renew(self) -> None:
        """Extend the lease."""
        self._lease_row.renew(self.lease)

    def _published_lsn(self) -> int:
        return self._published[-1].last_lsn if self._published else self.lease.published_lsn

    def _write(self, next_: Lease, claim: Claim | None) -> None:
        """Renew the lease, insert the claim if any, and delete everything marked as committed, all or nothing."""
        done = [id_ for published in self._published for id_ in published.outbox_ids]
        if self._fast_write is not None and not self._has_chunk(claim):
            self._write_in_one_statement(self._fast_write, next_, claim, done)
        else:
            self._write_step_by_step(next_, claim, done)
        self.lease = next_
        self._published.clear()
        self._claimed.difference_update(done)

    def _has_chunk(self, claim: Claim | None) -> bool:
        if claim is not None and claim.chunk is not None:
            return True
        return any(published.chunk is not None for published in self._published)

    def _write_in_one_statement(
        self, statement: PrecompiledStatement, next_: Lease, claim: Claim | None, done: Sequence[int]
    ) -> None:
        """Write on the fast path: one round trip instead of six, because each event waits for the write."""
        lsns = [published.first_lsn for published in self._published]
        ((swapped,),) = statement.fetch(
            self._connections.reader,
            self._lease_row.swap_parameters(self.lease, next_)
            | (_as_row(claim) if claim else _NO_CLAIM)
            | {"done_lsns": lsns, "done_ids": done},
        )
        if not swapped:
            raise self._lease_row.fenced_error()

    def _write_step_by_step(self, next_: Lease, claim: Claim | None, done: Sequence[int]) -> None:
        """Write on the full path: for every database, and for the chunks of snapshots."""
        writer = self._connections.writer
        with writer.begin():
            # The swap comes first, because a fenced relay must not reach a DELETE.
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
                    self._snapshots.record_chunk(writer, chunk.snapshot, chunk.last_key, chunk.rows)

    def _delete(self, claims: Sequence[Claim]) -> None:
        """Delete claims. The caller has begun a transaction of the writer."""
        self._connections.writer.execute(
            sa.delete(self._table).where(self._table.c.first_lsn == sa.bindparam("lsn")),
            [{"lsn": claim.first_lsn} for claim in claims],
        )


# For a fenced relay the swap updates no row, so the statement inserts and deletes nothing.
_FAST_WRITE = """
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
        "carried": claim.carried_in.to_json() if claim.carried_in else None,
        "left_unfinished": claim.carried_out.to_json() if claim.carried_out else None,
        "chunk": claim.chunk.to_json() if claim.chunk else None,
    }
