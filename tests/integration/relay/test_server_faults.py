"""A fault of the primary's server passes: the relay names it, says that it waits, tries again, and loses nothing."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.databases import NewDatabase
from rowcast.producer.relay import Relay
from rowcast.shared.database.engines import open_engine
from support.relay.primary import ORDERS, line, primary_at
from support.relay.settings import NewSettings
from support.relay.threads import running_thread, wait_until
from support.server_faults import CODES, FAULTS, full, new_role, raising_trigger, small_disk
from support.worker_runs import Database

# The worker meets each fault each time, and one table classifies the errors for both. The words of a login are the
# relay's own.
_SLICE = (("postgresql", "statement time"), ("postgresql", "login"), ("mariadb", "read-only"))


@pytest.mark.parametrize(
    ("engine", "fault"),
    [pytest.param(*case, marks=[] if case in _SLICE else [pytest.mark.only_in_campaigns]) for case in FAULTS],
)
def test_the_relay_waits_until_the_fault_has_passed(
    engine: str,
    fault: str,
    new_database: NewDatabase,
    new_settings: NewSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = new_database(engine)
    with primary_at(url) as primary, new_role(engine, url, "rowcast_lease") as role:
        primary.add_shapes(ORDERS)
        primary.add("a", line(ORDERS, "c", 1))
        own = replace(primary, engine=open_engine(role.url, "primary"))
        with running_thread(Relay(new_settings(own), own.engine)) as running:
            wait_until(lambda: not primary.ids())
            caplog.clear()
            with caplog.at_level(logging.WARNING, "rowcast.relay"), role.fault(fault) as words:
                wait_until(lambda: running.relay.progress.state == "waiting")
                wait_until(lambda: any(words in text and "Trying again in" in text for text in caplog.messages))
            primary.add("b", line(ORDERS, "c", 2))
            wait_until(lambda: not primary.ids())
            wait_until(lambda: running.relay.progress.state == "leading")
            assert running.ended_by is None
        own.engine.dispose()


@pytest.mark.only_in_campaigns
@pytest.mark.parametrize("engine", CODES)
def test_no_code_of_a_passing_fault_ends_the_relay(
    engine: str, new_database: NewDatabase, new_settings: NewSettings, caplog: pytest.LogCaptureFixture
) -> None:
    url = new_database(engine)
    with primary_at(url) as primary:
        primary.add_shapes(ORDERS)
        with running_thread(Relay(new_settings(primary), primary.engine)) as running:
            for n, code in enumerate(CODES[engine]):
                wait_until(lambda: running.relay.progress.state == "leading")
                caplog.clear()
                with raising_trigger(Database(url), "rowcast_claim", "INSERT", code):
                    primary.add(str(n), line(ORDERS, "c", n))
                    wait_until(lambda: any("Trying again in" in text for text in caplog.messages))
                    assert running.ended_by is None
                wait_until(lambda: not primary.ids())


@pytest.mark.campaign
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_relay_waits_while_the_disk_is_full(
    new_settings: NewSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk, primary_at(disk / "primary.db") as primary:
        primary.add_shapes(ORDERS)
        primary.add("a", line(ORDERS, "c", 1))
        # The write-ahead log has no room of its own now.
        Database(str(primary.engine.url)).checkpoint()
        with full(disk), running_thread(Relay(new_settings(primary), primary.engine)) as running:
            wait_until(lambda: "disk is full. Trying again" in caplog.text)
            wait_until(lambda: running.relay.progress.state == "waiting")
            (disk / "filler").write_bytes(b"")
            wait_until(lambda: not primary.ids())
            assert running.ended_by is None
