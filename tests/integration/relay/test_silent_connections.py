"""A leader whose database connections fall silent is replaced within the lease, and comes back by itself."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rowcast.producer.relay import Relay, embedded, running
from rowcast.shared.database.engines import open_engine
from support.relay.counter_app import Counters
from support.relay.primary import Primary, primary_at
from support.relay.settings import NewSettings
from support.relay.threads import running_thread, wait_until
from support.silent_proxy import SilentProxy, silent_proxy


def through(primary: Primary, proxy: SilentProxy) -> str:
    url = primary.engine.url.set(host="127.0.0.1", port=proxy.port)
    return url.render_as_string(hide_password=False)


def port_of(primary: Primary) -> int:
    assert primary.engine.url.port is not None
    return primary.engine.url.port


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_standby_takes_over_within_the_lease(
    new_database: Callable[[str], str], new_settings: NewSettings, engine: str
) -> None:
    with primary_at(new_database(engine)) as primary, silent_proxy(port_of(primary)) as proxy:
        settings, counters, rng = new_settings(primary, lease_ms=2_000), Counters(primary), random.Random(1)
        silent = open_engine(through(primary, proxy), "primary")
        with running_thread(Relay(settings, silent)) as leader:
            counters.raise_some(rng)
            wait_until(lambda: leader.relay.progress.events > 0)
            with running_thread(Relay(settings, primary.engine)) as standby:
                wait_until(lambda: standby.relay.progress.state == "standing by")
                proxy.silence()
                began = time.monotonic()
                counters.raise_some(rng)
                wait_until(lambda: standby.relay.progress.state == "leading")
                wait_until(lambda: not primary.ids())
                assert time.monotonic() - began < 8
                # The silent connections are cut, and the earlier leader stands by.
                wait_until(lambda: leader.relay.progress.state == "standing by", seconds=20)
                assert leader.ended_by is None
        silent.dispose()


def test_an_embedded_relay_goes_on_and_does_not_hold_the_application_up(
    new_database: Callable[[str], str], new_settings: NewSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_STOP_LIMIT_S", 1.0)
    with primary_at(new_database("postgresql")) as primary, silent_proxy(port_of(primary)) as proxy:
        counters, rng = Counters(primary), random.Random(1)
        settings = new_settings(primary, lease_ms=2_000)
        settings = type(settings).model_validate(settings.model_dump() | {"primary": {"url": through(primary, proxy)}})
        with running(settings) as relay:
            counters.raise_some(rng)
            wait_until(lambda: not primary.ids())
            proxy.silence()
            counters.raise_some(rng)
            wait_until(lambda: not primary.ids(), seconds=25)
            proxy.silence_all()
            began = time.monotonic()
        assert time.monotonic() - began < 5
        assert relay.error is None


CONFIGURATION = """
source = "{source}"
[kafka]
"bootstrap.servers" = "{bootstrap}"
[primary]
url = "{url}"
"""


def test_sigterm_ends_a_relay_whose_connections_are_silent(
    new_database: Callable[[str], str], new_settings: NewSettings, tmp_path: Path
) -> None:
    """psycopg2 waits in C, where Python calls no handler of a signal."""
    with primary_at(new_database("postgresql")) as primary, silent_proxy(port_of(primary)) as proxy:
        settings, counters = new_settings(primary), Counters(primary)
        url = through(primary, proxy).replace("+psycopg:", "+psycopg2:")
        text = CONFIGURATION.format(source=settings.source, bootstrap=settings.kafka["bootstrap.servers"], url=url)
        (tmp_path / "rowcast.toml").write_text(text)
        log = (tmp_path / "log").open("w")
        with (
            log,
            subprocess.Popen([sys.executable, "-m", "rowcast.shared.cli", "relay"], cwd=tmp_path, stderr=log) as it,
        ):
            try:
                counters.raise_some(random.Random(1))
                wait_until(lambda: not primary.ids())
                proxy.silence_all()
                assert proxy.was_asked.wait(30)
                it.send_signal(signal.SIGTERM)
                it.wait(11)
            finally:
                it.kill()
        assert it.returncode in (0, 4), (tmp_path / "log").read_text()
