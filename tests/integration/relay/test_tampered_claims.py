"""Test claimed outbox rows of a crashed relay that somebody has changed by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from rowcast.producer.relay import Relay
from rowcast.shared.errors import DataError
from servers import Broker
from support.relay.fault_injection import CrashError, Faults
from support.relay.primary import ORDERS, Primary, line
from support.relay.settings import settings_of


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
    ("touch", "message"),
    [
        (_gone, "the outbox rows of the claim of lsn 1 to 3 in rowcast_claim are missing"),
        (_longer, "the outbox rows 1 to 1 have changed since they were claimed: they take 4 lsns, and the claim has"),
    ],
)
def test_a_claimed_row_that_was_touched_is_not_published_again(
    lite: Primary, kafka: Broker, source_name: str, faults: Faults, touch: Callable[[Primary], None], message: str
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
    with pytest.raises(DataError, match=message):
        Relay(settings, lite.engine).run_once()
    assert lite.claims() == 1
