"""How long a leader with nothing to do may rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.leader import Leader
from rowcast.producer.relay.lease import Destination, LeaseRow
from rowcast.producer.relay.sizes import SizeLimits
from rowcast.shared.config import RelaySettings
from rowcast.shared.events import TABLE_TOPIC
from rowcast.shared.table_settings import TableSettings
from unit.relay_database import primary_at

LEASE_MS = 60_000


@dataclass
class Kafka:
    """What a leader asks its publisher before it rests."""

    begun_at: float | None
    committing: bool


class _Topics:
    limits = SizeLimits({})


@pytest.mark.parametrize(
    ("open_transaction", "committing", "rests"),
    [(False, False, True), (True, False, False), (True, True, True), (False, True, True)],
)
def test_a_leader_rests_unless_a_commit_is_due(
    tmp_path: Path, open_transaction: bool, committing: bool, rests: bool
) -> None:
    """While Kafka commits one transaction, which may take long, no other can be committed: looking again at once,
    and again, would only burden the database."""
    kafka: Any = Kafka(time.monotonic() if open_transaction else None, committing)
    with primary_at(tmp_path / "primary.db") as primary, Connections(primary.engine) as connections:
        row = LeaseRow(connections, primary.tables, "shop", "somebody", LEASE_MS, Destination(None, TABLE_TOPIC))
        settings, nobody = RelaySettings(lease_ms=LEASE_MS), lambda _: None
        topics: Any = _Topics()
        leader = Leader(
            connections, primary.tables, row, 1, kafka, topics, "shop", "shop", settings,
            lambda _: TableSettings(), nobody,
        )  # fmt: skip
        assert (leader.longest_pause > 0) is rests
