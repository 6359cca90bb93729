"""A single relay leads at a time, and a relay without the lease cannot write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from rowcast.producer.relay.claims import lease
from rowcast.producer.relay.claims.lease import Lease
from rowcast.shared.errors import ConfigurationError
from support.relay.lease_contract import (
    NewLeaseRow,
    assert_two_first_relays_do_not_both_get_it,
    assert_two_relays_that_see_it_free_at_once_do_not_both_get_it,
    assert_whoever_lost_the_lease_can_neither_read_renew_nor_release,
    expire,
    lease_rows,
    taken,
)
from support.relay.primary import Primary, primary_at

LEASE_MS = 60_000
DAY_MS = 86_400_000


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    with primary_at(tmp_path / "primary.db") as primary:
        yield primary


@pytest.fixture
def new_row(primary: Primary) -> Iterator[NewLeaseRow]:
    with lease_rows(primary) as new_row:
        yield new_row


def test_the_first_relay_leads_and_the_second_stands_by(new_row: NewLeaseRow) -> None:
    first, second = new_row(), new_row()
    assert taken(first) == 1
    assert first.read(1) == Lease(epoch=1, next_lsn=1, published_lsn=0, partial=None)
    assert second.take() is None


def test_a_released_lease_is_free_at_once(new_row: NewLeaseRow) -> None:
    first, second = new_row(), new_row()
    first.release(taken(first))
    assert taken(second) == 2


def test_a_restarted_relay_can_take_its_own_lease(new_row: NewLeaseRow) -> None:
    row = new_row()
    assert taken(row) == 1
    assert taken(row) == 2


def test_an_expired_lease_is_free_by_the_databases_clock(primary: Primary, new_row: NewLeaseRow) -> None:
    first, second = new_row(), new_row()
    taken(first)
    expire(primary)
    assert taken(second) == 2


def test_a_lease_that_was_renewed_has_not_expired(primary: Primary, new_row: NewLeaseRow) -> None:
    first, second = new_row(), new_row()
    held = first.read(taken(first))
    expire(primary)
    first.renew(held)
    assert second.take() is None


def test_a_clock_that_went_back_does_not_hold_the_lease(
    primary: Primary, new_row: NewLeaseRow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The leader has died, and its lease ends in a day by the database's clock."""
    now = 100.0
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: now))
    first, second = new_row(), new_row()
    taken(first)
    with primary.engine.begin() as connection:
        connection.execute(
            sa.update(primary.tables.lease).values(expires_ms=primary.tables.lease.c.expires_ms + DAY_MS)
        )
    assert second.take() is None
    now += 1.9 * LEASE_MS / 1000
    assert second.take() is None
    now += 0.2 * LEASE_MS / 1000
    assert taken(second) == 2
    assert "The clock of the database has gone back" in caplog.text


def test_a_leader_that_renews_keeps_the_lease_whatever_the_clock_says(
    new_row: NewLeaseRow, primary: Primary, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: now))
    first, second = new_row(), new_row()
    taken(first)
    for n in range(1, 9):
        with primary.engine.begin() as connection:
            connection.execute(sa.update(primary.tables.lease).values(expires_ms=(2**40 + n) * 1000))
        assert second.take() is None
        now += LEASE_MS / 1000


def test_a_relay_that_lost_the_lease_can_neither_read_renew_nor_release(primary: Primary, new_row: NewLeaseRow) -> None:
    assert_whoever_lost_the_lease_can_neither_read_renew_nor_release(primary, new_row)


def test_two_relays_that_find_the_lease_free_do_not_both_get_it(
    new_row: NewLeaseRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_two_relays_that_see_it_free_at_once_do_not_both_get_it(new_row, monkeypatch)


def test_two_relays_without_a_lease_row_do_not_both_lead(new_row: NewLeaseRow, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_two_first_relays_do_not_both_get_it(new_row, monkeypatch)


def test_a_database_is_published_under_one_name(new_row: NewLeaseRow) -> None:
    taken(new_row("shop"))
    with pytest.raises(ConfigurationError, match="published as source 'shop', and the configuration says 'market'"):
        new_row("market").take()


OTHERS = [
    ({"cluster": "two"}, "does not send the events of the old cluster again"),
    ({"template": "{table}"}, "Give the workers the same template"),
    ({"format": "json-schema"}, "in the two formats as two rows"),
]


@pytest.mark.parametrize(("other", "meaning"), OTHERS, ids=["cluster", "template", "format"])
def test_a_lease_of_a_relay_that_publishes_elsewhere_is_an_error_with_both_places(
    new_row: NewLeaseRow, primary: Primary, caplog: pytest.LogCaptureFixture, other: dict[str, str], meaning: str
) -> None:
    first, second = new_row(), new_row(**other)
    epoch = taken(first)
    with pytest.raises(
        ConfigurationError, match=r"cluster one, .*this relay would publish to the Kafka cluster .*stop the other"
    ):
        second.take()
    assert first.read(epoch).epoch == epoch
    first.release(epoch)
    assert caplog.messages == []
    assert taken(second) == 2
    (message,) = caplog.messages
    assert meaning in message
    # The warning comes once.
    expire(primary)
    taken(new_row(**other))
    assert len(caplog.messages) == 1


def test_a_cluster_without_a_name_is_not_another_one(new_row: NewLeaseRow, caplog: pytest.LogCaptureFixture) -> None:
    first = new_row(cluster=None)
    epoch = taken(first)
    assert new_row().take() is None
    first.release(epoch)
    taken(new_row())
    assert caplog.messages == []


def test_a_lease_of_an_older_version_names_no_place(new_row: NewLeaseRow, primary: Primary) -> None:
    taken(new_row())
    with primary.engine.begin() as connection:
        connection.execute(sa.update(primary.tables.lease).values(destination=None))
    assert new_row(template="{table}").take() is None
