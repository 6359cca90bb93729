"""The context of one leader: settings, connections and heartbeat, shared by all parts of the leader."""

from __future__ import annotations

from dataclasses import dataclass

from rowcast.producer.outbox.schema import OutboxTables
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.heartbeat import Heartbeat
from rowcast.producer.relay.claims.lease import LeaseRow
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Epoch:
    """Hold the context of one leader, from taking the lease until its release or loss.

    ``number``: the epoch in the lease's row. ``database``: the name of the primary, for the events. ``tables``: the
    outbox tables.
    """

    number: int
    settings: Settings
    database: str
    connections: Connections
    tables: OutboxTables
    lease_row: LeaseRow
    heartbeat: Heartbeat

    @property
    def source(self) -> str:
        """Return the source that the leader publishes."""
        return self.settings.source

    @property
    def relay_settings(self) -> RelaySettings:
        """Return the section ``[relay]`` of the configuration."""
        return self.settings.relay
