"""Test how long a leader without work may pause, and how a new leader renews its lease before it can publish."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.epoch import Epoch
from rowcast.producer.relay.kafka.size_limits import SizeLimits
from rowcast.producer.relay.leader.work_loop import Leader
from rowcast.shared.config.relay_settings import RelaySettings
from support.relay.epochs import take_epoch
from support.relay.primary import Primary, primary_at

LEASE_MS = 60_000


@dataclass
class FakePublisher:
    """Answer the questions that a leader asks before it pauses."""

    begun_at: float | None
    committing: bool


class FakeTopics:
    limits = SizeLimits({})


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    with primary_at(tmp_path / "primary.db") as primary:
        yield primary


@pytest.fixture
def epoch(primary: Primary) -> Iterator[Epoch]:
    with Connections(primary.engine) as connections:
        yield take_epoch(connections, primary, RelaySettings(lease_ms=LEASE_MS))


def new_leader(epoch: Epoch, publisher: Any) -> Leader:
    topics: Any = FakeTopics()
    return Leader(epoch, publisher, topics, lambda _: None)


def test_a_leader_that_is_still_taking_over_renews_its_lease(
    primary: Primary, epoch: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka may delay a takeover for longer than a lease. Without renewals, the relays would fence each other."""
    new_leader(epoch, FakePublisher(None, False))
    with primary.engine.begin() as connection:
        connection.execute(sa.update(primary.tables.lease).values(expires_ms=0))
    later = time.monotonic() + LEASE_MS / 1000
    monkeypatch.setattr(time, "monotonic", lambda: later)
    epoch.heartbeat.renew_lease()
    assert epoch.connections.reader.execute(sa.select(primary.tables.lease.c.expires_ms)).scalar_one() > 0


@pytest.mark.parametrize(
    ("open_transaction", "committing", "pauses"),
    [(False, False, True), (True, False, False), (True, True, True), (False, True, True)],
)
def test_a_leader_pauses_unless_a_commit_is_due(
    epoch: Epoch, open_transaction: bool, committing: bool, pauses: bool
) -> None:
    """While Kafka commits a transaction, no further commit is possible. Polls at once would only load the database."""
    publisher = FakePublisher(time.monotonic() if open_transaction else None, committing)
    leader = new_leader(epoch, publisher)
    assert (leader.longest_pause_s > 0) is pauses
