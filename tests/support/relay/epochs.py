"""Make the epoch of a leader, for tests of a leader or its parts without a relay."""

from __future__ import annotations

from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.epoch import Epoch
from rowcast.producer.relay.claims.heartbeat import Heartbeat
from rowcast.producer.relay.claims.lease import Destination, LeaseRow
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.topic_names import TABLE_TOPIC
from rowcast.shared.process_name import new_process_name
from support.relay.primary import Primary

SOURCE = "shop"


def new_lease_row(connections: Connections, primary: Primary, lease_ms: int = 60_000) -> LeaseRow:
    """Return a lease row of a new relay of the source ``shop``."""
    return LeaseRow(connections, primary.tables, SOURCE, new_process_name(), lease_ms, Destination(None, TABLE_TOPIC))


def take_epoch(connections: Connections, primary: Primary, relay: RelaySettings | None = None) -> Epoch:
    """Take the lease and return its epoch."""
    relay = relay or RelaySettings()
    lease_row = new_lease_row(connections, primary, relay.lease_ms)
    number = lease_row.take()
    assert number is not None
    settings = Settings(source=SOURCE, relay=relay)
    heartbeat = Heartbeat(lease_row, number, relay.lease_ms)
    return Epoch(number, settings, "shop", connections, primary.tables, lease_row, heartbeat)
