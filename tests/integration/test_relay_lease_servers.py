"""The lease on servers, whose locks outlast a process that stands still."""

from __future__ import annotations

import pytest
from sqlalchemy import exc

from fix_databases import NewDatabase
from integration.relay_threads import wait_until
from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.lease import Destination, LeaseRow, new_owner
from rowcast.shared.events import TABLE_TOPIC
from unit.relay_database import primary_at

LEASE_MS = 500


@pytest.mark.timeout(60)
@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_relay_that_sleeps_inside_a_database_transaction_is_followed(engine: str, new_database: NewDatabase) -> None:
    """The row that it has locked is the one that its successor must write."""
    with (
        primary_at(new_database(engine)) as primary,
        Connections(primary.engine, LEASE_MS) as asleep,
        Connections(primary.engine, LEASE_MS) as awake,
    ):
        nowhere = Destination(None, TABLE_TOPIC)
        first, second = (LeaseRow(c, primary.tables, "shop", new_owner(), LEASE_MS, nowhere) for c in (asleep, awake))
        epoch = first.take()
        assert epoch is not None
        lease = first.look(epoch)
        with asleep.writer.begin() as transaction:
            first.swap(lease, lease)
            wait_until(lambda: second.take() is not None)
            with pytest.raises(exc.DBAPIError) as woken:
                first.swap(lease, lease)
            assert woken.value.connection_invalidated, "one of the faults that a relay comes back from"
            transaction.rollback()
