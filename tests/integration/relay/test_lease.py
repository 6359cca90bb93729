"""Test lease and claims on servers: a relay without the lease cannot write, with the statements of any engine.

A server does not keep the locks of a suspended process.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import exc

from fixtures.databases import NewDatabase
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.lease import Destination, LeaseRow
from rowcast.shared.kafka.topic_names import TABLE_TOPIC
from rowcast.shared.process_name import new_process_name
from support.relay.lease_contract import (
    WRITES,
    add_orders,
    assert_a_relay_that_lost_the_lease_changes_nothing,
    assert_two_first_relays_do_not_both_get_it,
    assert_two_relays_that_see_it_free_at_once_do_not_both_get_it,
    assert_whoever_lost_the_lease_can_neither_read_renew_nor_release,
    leaders,
    lease_rows,
)
from support.relay.primary import Primary, primary_at
from support.relay.threads import wait_until

LEASE_MS = 500

on_servers = pytest.mark.parametrize("engine", ["postgresql", "mariadb"])


@pytest.fixture
def primary(engine: str, new_database: NewDatabase) -> Iterator[Primary]:
    with primary_at(new_database(engine)) as primary:
        yield primary


@on_servers
@pytest.mark.parametrize("write", WRITES)
def test_a_relay_that_lost_the_lease_changes_nothing(primary: Primary, write: str) -> None:
    add_orders(primary)
    with leaders(primary) as lead:
        assert_a_relay_that_lost_the_lease_changes_nothing(primary, lead, write)


@on_servers
def test_a_relay_that_lost_the_lease_can_neither_read_renew_nor_release(primary: Primary) -> None:
    with lease_rows(primary) as new_row:
        assert_whoever_lost_the_lease_can_neither_read_renew_nor_release(primary, new_row)


@on_servers
def test_two_relays_that_find_the_lease_free_do_not_both_get_it(
    primary: Primary, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease_rows(primary) as new_row:
        assert_two_relays_that_see_it_free_at_once_do_not_both_get_it(new_row, monkeypatch)


@on_servers
def test_two_relays_without_a_lease_row_do_not_both_lead(primary: Primary, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease_rows(primary) as new_row:
        assert_two_first_relays_do_not_both_get_it(new_row, monkeypatch)


@pytest.mark.timeout(60)
@on_servers
def test_a_standby_takes_over_from_a_relay_that_sleeps_in_a_transaction(engine: str, new_database: NewDatabase) -> None:
    """The suspended relay has locked the row that its successor must write."""
    with (
        primary_at(new_database(engine)) as primary,
        Connections(primary.engine, LEASE_MS) as asleep,
        Connections(primary.engine, LEASE_MS) as awake,
    ):
        nowhere = Destination(None, TABLE_TOPIC)
        first, second = (
            LeaseRow(c, primary.tables, "shop", new_process_name(), LEASE_MS, nowhere) for c in (asleep, awake)
        )
        epoch = first.take()
        assert epoch is not None
        lease = first.read(epoch)
        with asleep.writer.begin() as transaction:
            first.swap(lease, lease)
            wait_until(lambda: second.take() is not None)
            with pytest.raises(exc.DBAPIError) as woken:
                first.swap(lease, lease)
            assert woken.value.connection_invalidated, "one of the faults that a relay comes back from"
            transaction.rollback()
