"""How long a leader with nothing to do may rest, and how it keeps its lease before it can lead."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.leader import Leader
from rowcast.producer.relay.lease import Destination, LeaseRow
from rowcast.producer.relay.sizes import SizeLimits
from rowcast.shared.config import RelaySettings
from rowcast.shared.events import TABLE_TOPIC
from rowcast.shared.table_settings import TableSettings
from unit.relay_database import Primary, primary_at

LEASE_MS = 60_000


@dataclass
class Kafka:
    """What a leader asks its publisher before it rests."""

    begun_at: float | None
    committing: bool


class _Topics:
    limits = SizeLimits({})


def new_leader(connections: Connections, primary: Primary, row: LeaseRow, epoch: int, kafka: Any) -> Leader:
    topics: Any = _Topics()
    return Leader(
        connections, primary.tables, row, epoch, kafka, topics, "shop", "shop", RelaySettings(lease_ms=LEASE_MS),
        lambda _: TableSettings(), lambda _: None,
    )  # fmt: skip


def test_a_leader_that_is_still_taking_over_keeps_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka may keep it waiting for longer than a lease: if it only looked, standbys and it would fence each other."""
    with primary_at(tmp_path / "primary.db") as primary, Connections(primary.engine) as connections:
        row = LeaseRow(connections, primary.tables, "shop", "somebody", LEASE_MS, Destination(None, TABLE_TOPIC))
        epoch = row.take()
        assert epoch is not None
        leader = new_leader(connections, primary, row, epoch, Kafka(None, False))
        with primary.engine.begin() as connection:
            connection.execute(sa.update(primary.tables.lease).values(expires_ms=0))
        later = time.monotonic() + LEASE_MS / 1000
        monkeypatch.setattr(time, "monotonic", lambda: later)
        leader.keep_lease()
        assert connections.reader.execute(sa.select(primary.tables.lease.c.expires_ms)).scalar_one() > 0


@pytest.mark.parametrize(
    ("open_transaction", "committing", "rests"),
    [(False, False, True), (True, False, False), (True, True, True), (False, True, True)],
)
def test_a_leader_rests_unless_a_commit_is_due(
    tmp_path: Path, open_transaction: bool, committing: bool, rests: bool
) -> None:
    """While Kafka commits one transaction, which may take long, no other can be committed: looking again at once,
    and again, would only burden the database."""
    kafka = Kafka(time.monotonic() if open_transaction else None, committing)
    with primary_at(tmp_path / "primary.db") as primary, Connections(primary.engine) as connections:
        row = LeaseRow(connections, primary.tables, "shop", "somebody", LEASE_MS, Destination(None, TABLE_TOPIC))
        leader = new_leader(connections, primary, row, 1, kafka)
        assert (leader.longest_pause > 0) is rests
