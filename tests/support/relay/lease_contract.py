"""Take the lease by several relays without Kafka, and check what a relay can do after the loss of the lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import sqlalchemy as sa

from rowcast.producer.relay.claims.claim_table import Claim, ClaimedChunk, Claims
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.lease import Destination, LeaseRow
from rowcast.producer.relay.claims.outbox_reader import OutboxReader
from rowcast.shared.errors import FencedError
from rowcast.shared.kafka.topic_names import TABLE_TOPIC
from rowcast.shared.process_name import new_process_name
from support.relay.primary import ORDERS, Primary, line

Lead = Callable[[], Claims]
NewLeaseRow = Callable[..., LeaseRow]


def add_orders(primary: Primary) -> None:
    """Insert six outbox rows."""
    for n in range(1, 7):
        primary.add(f"t{n}", line(ORDERS, "c", n))


def taken(row: LeaseRow) -> int:
    epoch = row.take()
    assert epoch is not None
    return epoch


def expire(primary: Primary) -> None:
    with primary.engine.begin() as connection:
        connection.execute(sa.update(primary.tables.lease).values(expires_ms=0))


@contextmanager
def leaders(primary: Primary) -> Iterator[Lead]:
    """Yield a function with which a new relay takes the lease. The function returns the relay's claims."""
    with ExitStack() as stack:

        def take() -> Claims:
            with primary.engine.begin() as connection:
                connection.execute(sa.update(primary.tables.lease).values(expires_ms=0))
            connections = stack.enter_context(Connections(primary.engine))
            row = LeaseRow(
                connections, primary.tables, "shop", new_process_name(), 60_000, Destination(None, TABLE_TOPIC)
            )
            epoch = taken(row)
            return Claims(connections, primary.tables, row, OutboxReader(connections, primary.tables), row.read(epoch))

        yield take


@contextmanager
def lease_rows(primary: Primary) -> Iterator[NewLeaseRow]:
    """Yield a function for a new relay's view of the lease."""
    with ExitStack() as stack:

        def make(
            source: str = "shop",
            lease_ms: int = 60_000,
            cluster: str | None = "one",
            template: str = TABLE_TOPIC,
            format: str = "json",
        ) -> LeaseRow:
            connections = stack.enter_context(Connections(primary.engine))
            destination = Destination(cluster, template, format)
            return LeaseRow(connections, primary.tables, source, new_process_name(), lease_ms, destination)

        yield make


CHUNK = ClaimedChunk(1, "[1]", 1)

WRITES: dict[str, Callable[[Claims], object]] = {
    "record": lambda claims: claims.record([2], 3, None),
    "record a chunk": lambda claims: claims.record([], 3, None, CHUNK),
    "settle": lambda claims: claims.settle(),
    "begin_timeline": lambda claims: claims.begin_timeline(2, 100, 0),
    "renew": lambda claims: claims.renew(),
    "park": lambda claims: claims.park([5], "because"),
    "drop_chunks": lambda claims: claims.drop_chunks(),
}


def rows_of(primary: Primary) -> dict[str, object]:
    """Return all rows that relays have written."""
    with primary.engine.connect() as connection:
        return {table.name: sorted(map(tuple, connection.execute(sa.select(table)))) for table in primary.tables}


def assert_a_relay_that_lost_the_lease_changes_nothing(primary: Primary, lead: Lead, write: str) -> None:
    """A relay without the lease changes nothing, even with committed rows and an uncommitted chunk to write."""
    zombie = lead()
    zombie.record([1], 3, None)
    zombie.mark_committed(3)
    if write == "drop_chunks":
        zombie.record([], 3, None, CHUNK)
    leader = lead()
    before = rows_of(primary)
    with pytest.raises(FencedError):
        WRITES[write](zombie)
    assert rows_of(primary) == before
    next_lsn = leader.lease.next_lsn
    assert leader.record([2], 3, None) == Claim(next_lsn, next_lsn + 2, (2,), None, None)


def assert_whoever_lost_the_lease_can_neither_read_renew_nor_release(primary: Primary, new_row: NewLeaseRow) -> None:
    first, second = new_row(), new_row()
    lease = first.read(taken(first))
    expire(primary)
    epoch = taken(second)
    for attempt in (lambda: first.read(lease.epoch), lambda: first.renew(lease)):
        with pytest.raises(FencedError, match="another relay"):
            attempt()
    first.release(lease.epoch)
    assert second.read(epoch).epoch == epoch
    assert new_row().take() is None


def assert_two_relays_that_see_it_free_at_once_do_not_both_get_it(
    new_row: NewLeaseRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = new_row(), new_row()
    first.release(taken(first))
    reader = second._connections.reader
    read = reader.execute

    def read_and_be_overtaken(*args: object) -> object:
        result = read(*args)  # type: ignore[call-overload]
        assert taken(first) == 2
        return result

    with monkeypatch.context() as patch:
        patch.setattr(reader, "execute", read_and_be_overtaken)
        assert second.take() is None


def assert_two_first_relays_do_not_both_get_it(new_row: NewLeaseRow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a row of the lease, both relays try to insert the row."""
    first, second = new_row(), new_row()
    insert = second._insert

    def be_overtaken_and_insert() -> None:
        assert taken(first) == 1
        insert()

    with monkeypatch.context() as patch:
        patch.setattr(second, "_insert", be_overtaken_and_insert)
        assert second.take() is None
    assert first.read(1).epoch == 1
