"""The relay raises an alarm while its outbox has too many rows, or rows that are too old."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from rowcast.producer.checks.primary import primary as check_primary
from rowcast.producer.outbox.backlog import EXCESS_HINT, backlog, excess
from rowcast.producer.outbox.status import outbox
from rowcast.producer.relay.metrics import RelayMetrics
from rowcast.producer.relay.upkeep import backlog_alarm
from rowcast.producer.relay.upkeep.backlog_alarm import BacklogAlarm
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.findings import Verdict
from support.relay.primary import ORDERS, Primary, line, primary_at


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    with primary_at(tmp_path / "primary.db") as primary:
        yield primary


def add(primary: Primary, rows: int, age_s: int = 0) -> None:
    for n in range(rows):
        primary.add(f"t{n}", line(ORDERS, "c", n))
    with primary.engine.begin() as connection:
        ts_ms = (time.time_ns() // 1_000_000) - age_s * 1_000
        connection.execute(sa.update(primary.tables.outbox).values(ts_ms=ts_ms))


@pytest.mark.parametrize(
    ("rows", "age_s", "fault"),
    [(0, 0, None), (3, 50, None), (4, 0, "more than 3 rows (alarm_rows)"), (1, 70, "more than 60 s (alarm_s)")],
)
def test_an_alarm_names_the_limit_that_is_exceeded(primary: Primary, rows: int, age_s: int, fault: str | None) -> None:
    add(primary, rows, age_s)
    found = excess(backlog(primary.engine, "shop"), RelaySettings(alarm_rows=3, alarm_s=60))
    assert found is None if fault is None else found is not None and fault in found


def test_a_count_ends_where_the_alarm_is_certain(primary: Primary) -> None:
    add(primary, 5)
    assert backlog(primary.engine, "shop", most_rows=2).rows == 3


def test_the_relay_logs_an_alarm_again_and_again_and_its_end(
    primary: Primary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rowcast.relay")
    monkeypatch.setattr(backlog_alarm, "_CHECK_EVERY_S", 0.0)
    alarm = BacklogAlarm(primary.engine, "shop", RelaySettings(alarm_rows=1))
    alarm.check_if_due()
    assert caplog.messages == []
    add(primary, 2)
    alarm.check_if_due()
    alarm.check_if_due()
    with primary.engine.begin() as connection:
        connection.execute(sa.delete(primary.tables.outbox))
    alarm.check_if_due()
    alarm.check_if_due()
    assert [(r.levelname, r.getMessage().partition(" (")[0]) for r in caplog.records] == [
        ("ERROR", "the outbox holds more than 1 rows"),
        ("ERROR", "the outbox holds more than 1 rows"),
        ("INFO", "the outbox is below its limits again: 0 rows"),
    ]


def test_an_alarm_is_not_looked_for_all_the_time(primary: Primary, caplog: pytest.LogCaptureFixture) -> None:
    add(primary, 2)
    BacklogAlarm(primary.engine, "shop", RelaySettings(alarm_rows=1)).check_if_due()
    assert caplog.messages == []


@pytest.mark.parametrize("rows", [1, 2])
def test_status_check_and_metrics_show_the_alarm(primary: Primary, rows: int) -> None:
    add(primary, rows)
    settings = Settings(source="shop", primary={"url": str(primary.engine.url)}, relay={"alarm_rows": 1})
    alarm = "the outbox holds more than 1 rows (alarm_rows)" if rows > 1 else None
    status = outbox(settings, 60)
    assert status.data["outbox"].alarm == alarm
    assert [one for one in status.problems if "alarm_" in one] == ([f"{alarm}: {EXCESS_HINT}"] if alarm else [])
    found = [(f.verdict, f.message, f.hint) for f in check_primary(settings) if "alarm_" in f.message]
    assert found == ([(Verdict.warning, alarm, EXCESS_HINT)] if alarm else [])
    samples = {s.name: s.value for metric in RelayMetrics([settings]).collect() for s in metric.samples}
    assert samples["rowcast_outbox_alarm"] == (alarm is not None)
