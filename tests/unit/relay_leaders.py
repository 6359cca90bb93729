"""Relays that take the lease from one another, without a Kafka; and what one that lost it may not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import sqlalchemy as sa

from rowcast.producer.relay.claims import Claim, ClaimedChunk, Claims
from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.lease import Destination, LeaseRow, new_owner
from rowcast.producer.relay.reading import Outbox
from rowcast.shared.errors import FencedError
from rowcast.shared.events import TABLE_TOPIC
from unit.relay_database import ORDERS, Primary, line

Lead = Callable[[], Claims]
NewLeaseRow = Callable[..., LeaseRow]


def add_orders(primary: Primary) -> None:
    """Six outbox rows."""
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
    """Each call: another relay takes the lease."""
    with ExitStack() as stack:

        def take() -> Claims:
            with primary.engine.begin() as connection:
                connection.execute(sa.update(primary.tables.lease).values(expires_ms=0))
            connections = stack.enter_context(Connections(primary.engine))
            row = LeaseRow(connections, primary.tables, "shop", new_owner(), 60_000, Destination(None, TABLE_TOPIC))
            epoch = taken(row)
            return Claims(connections, primary.tables, row, Outbox(connections, primary.tables), row.look(epoch))

        yield take


@contextmanager
def lease_rows(primary: Primary) -> Iterator[NewLeaseRow]:
    """Each call: another relay's view of the lease."""
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
            return LeaseRow(connections, primary.tables, source, new_owner(), lease_ms, destination)

        yield make


CHUNK = ClaimedChunk(1, "[1]", 1)

WRITES: dict[str, Callable[[Claims], object]] = {
    "record": lambda claims: claims.record([2], 3, None),
    "record a chunk": lambda claims: claims.record([], 3, None, CHUNK),
    "settle": lambda claims: claims.settle(),
    "start_above": lambda claims: claims.start_above(99),
    "renew": lambda claims: claims.renew(),
    "park": lambda claims: claims.park([5], "because"),
    "drop_chunks": lambda claims: claims.drop_chunks(),
}


def rows_of(primary: Primary) -> dict[str, object]:
    """All that relays have written."""
    with primary.engine.connect() as connection:
        return {table.name: sorted(map(tuple, connection.execute(sa.select(table)))) for table in primary.tables}


def assert_a_relay_that_lost_the_lease_changes_nothing(primary: Primary, lead: Lead, write: str) -> None:
    """Not even if it has all at hand that it would write: rows that are committed, and a chunk that is not."""
    zombie = lead()
    zombie.record([1], 3, None)
    zombie.committed(3)
    if write == "drop_chunks":
        zombie.record([], 3, None, CHUNK)
    leader = lead()
    before = rows_of(primary)
    with pytest.raises(FencedError):
        WRITES[write](zombie)
    assert rows_of(primary) == before
    next_lsn = leader.lease.next_lsn
    assert leader.record([2], 3, None) == Claim(next_lsn, next_lsn + 2, (2,), None, None)


def assert_whoever_lost_the_lease_can_neither_look_renew_nor_release(primary: Primary, new_row: NewLeaseRow) -> None:
    first, second = new_row(), new_row()
    lease = first.look(taken(first))
    expire(primary)
    epoch = taken(second)
    for attempt in (lambda: first.look(lease.epoch), lambda: first.renew(lease)):
        with pytest.raises(FencedError, match="another relay"):
            attempt()
    first.release(lease.epoch)
    assert second.look(epoch).epoch == epoch
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
    """There is no row yet: both insert it."""
    first, second = new_row(), new_row()
    insert = second._insert

    def be_overtaken_and_insert() -> None:
        assert taken(first) == 1
        insert()

    with monkeypatch.context() as patch:
        patch.setattr(second, "_insert", be_overtaken_and_insert)
        assert second.take() is None
    assert first.look(1).epoch == 1
