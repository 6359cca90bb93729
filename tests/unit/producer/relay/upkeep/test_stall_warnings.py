"""A warning comes only when outbox rows have waited for long."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import exc

from rowcast.producer.relay.upkeep import stall_warnings
from rowcast.producer.relay.upkeep.stall_warnings import StallWarnings


class World:
    """Hold a clock, and a backlog with an age of its oldest row. ``reads``: how often the backlog was read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        self.oldest_ms: int | None = None
        self.is_down = False
        self.reads = 0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(stall_warnings, "backlog", self._backlog)

    def _backlog(self, engine: Any, source: str) -> Any:
        self.reads += 1
        if self.is_down:
            raise exc.OperationalError("SELECT", {}, Exception("the server is down"))
        return SimpleNamespace(rows=3, oldest_ms=self.oldest_ms)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level(logging.WARNING)
    return World(monkeypatch)


@pytest.fixture
def stalls(world: World) -> StallWarnings:
    engine: Any = None
    return StallWarnings(engine, "shop")


def test_rows_that_wait_are_reported_every_ten_seconds(
    world: World, stalls: StallWarnings, caplog: pytest.LogCaptureFixture
) -> None:
    world.oldest_ms = 12_000
    for _ in range(40):
        world.now += 0.5
        stalls.warn_if_due()
    assert [record.getMessage().split(".")[0] for record in caplog.records] == [
        "the relay publishes nothing: 3 outbox rows wait, the oldest for 12"
    ] * 2
    assert world.reads == 2


def test_an_empty_outbox_is_not_reported(world: World, stalls: StallWarnings, caplog: pytest.LogCaptureFixture) -> None:
    world.now += 60
    stalls.warn_if_due()
    assert caplog.records == []


def test_a_row_is_reported_when_it_has_waited_ten_seconds_itself(
    world: World, stalls: StallWarnings, caplog: pytest.LogCaptureFixture
) -> None:
    world.now += 60
    world.oldest_ms = 4_000
    stalls.warn_if_due()
    world.now += 5
    stalls.warn_if_due()
    assert caplog.records == []
    world.now += 1
    world.oldest_ms = 10_000
    stalls.warn_if_due()
    assert len(caplog.records) == 1


def test_each_commit_begins_the_time_again(
    world: World, stalls: StallWarnings, caplog: pytest.LogCaptureFixture
) -> None:
    world.oldest_ms = 60_000
    for lsn in range(1, 20):
        world.now += 9
        stalls.note_committed(lsn)
        stalls.warn_if_due()
    assert (caplog.records, world.reads) == ([], 0)


def test_a_database_that_is_down_is_not_reported_here(
    world: World, stalls: StallWarnings, caplog: pytest.LogCaptureFixture
) -> None:
    world.is_down = True
    world.now += 60
    stalls.warn_if_due()
    assert caplog.records == []
