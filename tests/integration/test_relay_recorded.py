"""Outbox rows that a crashed relay had claimed, and that somebody has touched since."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from integration.relay_faults import CrashError, Faults
from integration.relay_settings import settings_of
from rowcast.producer.relay import Relay
from rowcast.shared.errors import DataError
from servers import Broker
from unit.relay_database import ORDERS, Primary, line


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    faults = Faults(monkeypatch)
    yield faults
    faults.end()


def _crash(step: str) -> None:
    if step == "after claim":
        raise CrashError


def _gone(primary: Primary) -> None:
    with primary.engine.begin() as connection:
        connection.execute(sa.delete(primary.tables.outbox).where(primary.tables.outbox.c.tx == "a"))


def _longer(primary: Primary) -> None:
    twice = sa.update(primary.tables.outbox).values(changes=line(ORDERS, "c", 1) * 2)
    with primary.engine.begin() as connection:
        connection.execute(twice.where(primary.tables.outbox.c.tx == "a"))


@pytest.mark.parametrize(
    ("touch", "told"),
    [
        (_gone, "the claim of lsn 1 to 3 in rowcast_claim names outbox rows that are gone"),
        (_longer, "the outbox rows 1 to 1 have other changes than when they were claimed: they take 4 lsns, and were"),
    ],
)
def test_a_claimed_row_that_was_touched_is_not_published_again(
    lite: Primary, kafka: Broker, source_name: str, faults: Faults, touch: Callable[[Primary], None], told: str
) -> None:
    settings = settings_of(kafka, source_name, lite)
    lite.add_shapes(ORDERS)
    lite.add("a", line(ORDERS, "c", 1))
    faults.plan(_crash)
    with pytest.raises(CrashError):
        Relay(settings, lite.engine).run_once()
    faults.plan(None)
    with lite.engine.begin() as connection:
        connection.execute(sa.update(lite.tables.lease).values(expires_ms=0))
    touch(lite)
    with pytest.raises(DataError, match=told):
        Relay(settings, lite.engine).run_once()
    assert lite.claims() == 1
