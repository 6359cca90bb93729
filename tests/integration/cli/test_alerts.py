"""``rowcast alerts`` says once that a replica has stopped, and once that it goes on."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rowcast.consumer.alerts.channels import Delivery
from rowcast.consumer.alerts.command import watch
from rowcast.consumer.alerts.memory import Alert
from rowcast.shared.config.alert_settings import AlertSettings
from rowcast.shared.errors import DataError
from servers import Broker
from support.command_line import rowcast
from support.kafka_source import Source, column, shape
from support.worker_runs import Database, settings_for, work_once

ITEM = shape("item", column("n"))


def test_a_stopped_replica_is_announced_once_and_cleared_once(
    new_database: Callable[[str], str], kafka: Broker, source_name: str, tmp_path: Path
) -> None:
    url = new_database("sqlite")
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    settings = settings.model_copy(update={"alerts": AlertSettings(every=1.0, after=0.0)})
    source, replica = Source(kafka.bootstrap_servers, source_name), Database(url)
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    work_once(settings)
    replica.execute("CREATE UNIQUE INDEX mine ON item (n)")
    source.transaction(("c", "item", {"id": 2, "n": 1}))
    with pytest.raises(DataError):
        work_once(settings)

    sent: list[tuple[str, bool]] = []

    def note(_source: str, alert: Alert) -> None:
        sent.append((alert.condition.kind, alert.clears))

    stop = threading.Event()
    thread = threading.Thread(target=watch, args=(settings, Delivery(source_name, [note]), stop))
    thread.start()

    def until(count: int) -> None:
        deadline = time.monotonic() + 30
        while len(sent) < count:
            assert time.monotonic() < deadline, sent
            time.sleep(0.05)

    try:
        until(1)
        replica.execute("DROP INDEX mine")
        work_once(settings)
        until(2)
    finally:
        stop.set()
        thread.join(30)
    assert sent == [("replica stopped", False), ("replica stopped", True)]

    # From the command line, with a command as the channel.
    kept = tmp_path / "kept"
    save = f"import sys; open({str(kept)!r}, 'a').write(sys.stdin.read() + chr(10))"
    config = tmp_path / "rowcast.toml"
    config.write_text(
        f'source = "{source_name}"\n[kafka]\n"bootstrap.servers" = "{kafka.bootstrap_servers}"\n'
        f'[replicas.copy]\nurl = "{url}"\n[alerts]\ncommand = {json.dumps([sys.executable, "-c", save])}\n'
    )
    assert rowcast("alerts", "--once", cwd=tmp_path).returncode == 0
    assert rowcast("alerts", "--test", cwd=tmp_path).returncode == 0
    source.transaction(("c", "item", {"id": 3, "n": 3}))
    assert rowcast("alerts", "--once", cwd=tmp_path).returncode == 1
    assert [json.loads(line)["kind"] for line in kept.read_text().splitlines()] == ["test", "no worker"]
    both = rowcast("alerts", "--once", "--test", cwd=tmp_path)
    assert (both.returncode, "exclude each other" in both.stderr) == (2, True)
