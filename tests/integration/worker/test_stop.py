"""SIGTERM ends a worker within ten seconds while Kafka does not answer."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from servers import Broker
from support.kafka_source import Source, column, shape

CONFIGURATION = """
source = "{source}"
[kafka]
"bootstrap.servers" = "{bootstrap}"
[replicas.copy]
url = "sqlite:///{folder}/copy.db"
"""


def test_a_worker_stops_while_the_broker_is_suspended(kafka: Broker, source_name: str, tmp_path: Path) -> None:
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(shape("item", column("n")))
    source.transaction(("c", "item", {"id": 1, "n": 0}))
    text = CONFIGURATION.format(source=source_name, bootstrap=kafka.bootstrap_servers, folder=tmp_path)
    (tmp_path / "rowcast.toml").write_text(text)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "rowcast.shared.cli", "worker", "copy"]
    with log.open("w") as output, subprocess.Popen(command, cwd=tmp_path, stderr=output) as worker:
        try:
            deadline = time.monotonic() + 60
            while "is consistent" not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            kafka.pause()
            time.sleep(1.0)
            worker.send_signal(signal.SIGTERM)
            began = time.monotonic()
            worker.wait(11)
            print(f"ended with {worker.returncode} after {time.monotonic() - began:.1f} s")
        finally:
            kafka.resume()
            worker.kill()
    assert worker.returncode in (0, 4), log.read_text()
