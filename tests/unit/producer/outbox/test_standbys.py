"""The relays that stand by are shown, and whatever happens to their rows does not disturb them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from rowcast.producer.outbox import backlog
from rowcast.producer.outbox.backlog import outbox_bytes
from rowcast.producer.outbox.standbys import StandbyRow, standbys
from rowcast.producer.outbox.status import outbox
from rowcast.shared.cli.durations import size_text
from rowcast.shared.config.settings import Settings
from support.relay.primary import Primary, primary_at


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    with primary_at(tmp_path / "primary.db") as primary:
        yield primary


@pytest.fixture
def writer(primary: Primary) -> Iterator[sa.Connection]:
    with primary.engine.connect() as writer:
        yield writer


def shown(primary: Primary, leader: str | None = None) -> list[str]:
    with primary.engine.connect() as connection:
        return standbys(connection, primary.tables, "shop", leader)


def test_a_standby_is_shown_until_it_leads_or_ends(primary: Primary, writer: sa.Connection) -> None:
    rows = [StandbyRow(writer, primary.tables, "shop", name, 60_000) for name in ("web1", "web2")]
    other = StandbyRow(writer, primary.tables, "bank", "web3", 60_000)
    for row in (*rows, other):
        row.renew_if_due()
    assert shown(primary) == ["web1", "web2"]
    # A leader that was killed as a standby once has left its row.
    assert shown(primary, leader="web1") == ["web2"]
    rows[1].remove()
    assert shown(primary) == ["web1"]


def test_a_killed_standby_is_not_shown_after_the_length_of_a_lease(
    primary: Primary, writer: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    StandbyRow(writer, primary.tables, "shop", "killed", 0).renew_if_due()
    assert shown(primary) == []
    StandbyRow(writer, primary.tables, "shop", "next", 60_000).renew_if_due()
    with primary.engine.connect() as connection:
        assert connection.execute(sa.select(primary.tables.relay.c.owner)).scalars().all() == ["next"]


def test_a_row_is_renewed_three_times_in_the_length_of_a_lease(
    primary: Primary, writer: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    row = StandbyRow(writer, primary.tables, "shop", "web1", 30_000)
    row.renew_if_due()
    with primary.engine.begin() as connection:
        connection.execute(sa.update(primary.tables.relay).values(expires_ms=0))
    now[0] += 9.9
    row.renew_if_due()
    assert shown(primary) == []
    now[0] += 0.2
    row.renew_if_due()
    assert shown(primary) == ["web1"]


def test_a_row_that_cannot_be_written_is_logged_once(
    primary: Primary, writer: sa.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    primary.tables.relay.drop(primary.engine)
    row = StandbyRow(writer, primary.tables, "shop", "web1", 0)
    with caplog.at_level(logging.WARNING):
        row.renew_if_due()
        row.renew_if_due()
    row.remove()
    assert caplog.messages == ["rowcast status cannot show this standby: no such table: rowcast_relay"]
    # The status of outbox tables of an earlier version.
    assert shown(primary) == []


def test_status_shows_standbys_and_the_size_of_the_outbox(primary: Primary, writer: sa.Connection) -> None:
    settings = Settings(source="shop", primary={"url": str(primary.engine.url)})
    assert not [name for name, _ in outbox(settings, 60).blocks[0].lines if name == "standby"]
    StandbyRow(writer, primary.tables, "shop", "web2", 60_000).renew_if_due()
    primary.add("t1", "ä" * 1_000)
    status = outbox(settings, 60)
    lines = dict(status.blocks[0].lines)
    assert lines["standby"] == "web2"
    assert lines["outbox"].startswith("1 rows wait, 2.0 kB, the oldest for ")
    assert (status.data["outbox"].standbys, status.data["outbox"].bytes) == (["web2"], 2_000)


def test_the_size_of_a_large_outbox_follows_from_its_oldest_rows(
    primary: Primary, writer: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outbox_bytes(writer, 0) == 0
    for number, size in enumerate((100, 200, 9_000)):
        primary.add(f"t{number}", "x" * size)
    assert outbox_bytes(writer, 3) == 9_300
    monkeypatch.setattr(backlog, "_MEASURED_ROWS", 2)
    assert outbox_bytes(writer, 3) == 450


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1_000, "1.0 kB"), (999_990, "1.0 MB"), (2_500_000_000, "2.5 GB"),
     (4e15, "4,000.0 TB")],
)  # fmt: skip
def test_a_size_has_the_greatest_unit(size: float, text: str) -> None:
    assert size_text(size) == text
