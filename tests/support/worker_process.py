"""Run a worker as a process for tests of stops and kills: `python -m support.worker_process SETTINGS`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import orjson

from rowcast.consumer.running.run_worker import run_worker
from rowcast.shared.config.settings import Settings
from servers.guard import Guard
from support.forked_python import ForkedPython
from support.project import TESTS
from support.worker_runs import NAME


class WorkerProcess:
    """Start a worker process with its log in `log`.

    If the process still runs at the end of the test run, `guard` ends the process.
    """

    def __init__(self, settings: Settings, log: Path, guard: Guard) -> None:
        text = orjson.dumps(
            {
                "source": settings.source,
                "kafka": settings.kafka,
                "replicas": {
                    name: replica.model_dump() | {"url": replica.url.get_secret_value()}
                    for name, replica in settings.replicas.items()
                },
            }
        )
        self._process = ForkedPython(
            ["-m", "support.worker_process", text.decode()], log, guard, cwd=TESTS, environment=os.environ
        )

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self._process.kill()

    def terminate(self) -> int:
        """Send SIGTERM and return the exit code."""
        return self._process.end(60)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None


def main() -> None:
    import logging
    import threading

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run_worker(Settings(**orjson.loads(sys.argv[1])), NAME, stop=stop)


if __name__ == "__main__":
    main()
