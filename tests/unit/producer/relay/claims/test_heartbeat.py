"""The heartbeat renews the lease three times in its length, and detects the takeover by another relay."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rowcast.producer.relay.claims.heartbeat import Heartbeat
from rowcast.producer.relay.claims.lease import Lease
from rowcast.shared.errors import FencedError

LEASE_MS = 3_000


class FakeLeaseRow:
    """Count reads, and remember renewals."""

    def __init__(self) -> None:
        self.reads = 0
        self.renewed: list[Lease] = []
        self.is_lost = False

    def read(self, epoch: int) -> Lease:
        self.reads += 1
        return Lease(epoch, 1, 0, None)

    def renew(self, lease: Lease) -> None:
        if self.is_lost:
            raise FencedError("another relay has taken over")
        self.renewed.append(lease)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def lease_row() -> Any:
    return FakeLeaseRow()


def test_the_lease_is_renewed_when_a_third_of_it_has_passed(clock: Clock, lease_row: Any) -> None:
    heartbeat = Heartbeat(lease_row, 7, LEASE_MS)
    clock.now += 0.9
    heartbeat.renew_lease()
    assert lease_row.renewed == []
    clock.now += 0.2
    heartbeat.renew_lease()
    heartbeat.renew_lease()
    assert lease_row.renewed == [Lease(7, 1, 0, None)]


def test_a_write_that_renews_the_lease_begins_the_interval_again(clock: Clock, lease_row: Any) -> None:
    heartbeat = Heartbeat(lease_row, 7, LEASE_MS)
    clock.now += 0.9
    heartbeat.note_renewal()
    clock.now += 0.9
    heartbeat.renew_lease()
    assert lease_row.renewed == []
    assert heartbeat.due_in_s == pytest.approx(0.1)


def test_a_leader_with_claims_renews_the_lease_that_they_have_written(clock: Clock, lease_row: Any) -> None:
    heartbeat = Heartbeat(lease_row, 7, LEASE_MS)
    written = Lease(7, 50, 40, None)
    heartbeat.follow(lambda: written)
    clock.now += 2
    heartbeat.renew_lease()
    assert (lease_row.renewed, lease_row.reads) == ([written], 0)


def test_a_lost_lease_is_an_error_at_each_attempt(clock: Clock, lease_row: Any) -> None:
    heartbeat = Heartbeat(lease_row, 7, LEASE_MS)
    lease_row.is_lost = True
    clock.now += 2
    for _ in range(2):
        with pytest.raises(FencedError):
            heartbeat.renew_lease()
