"""A worker as a process of its own, to be stopped and killed: `python -m worker_process SETTINGS`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import orjson

from replicas import NAME
from rowcast.consumer.worker import run_worker
from rowcast.shared.config import Settings
from servers.guard import Guard


class WorkerProcess:
    """Started at once; its log goes to `log`. `guard` ends it, if nobody else has, when the test run ends."""

    def __init__(self, settings: Settings, log: Path, guard: Guard) -> None:
        self._guard = guard
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
        with guard.starting(), log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker_process", text.decode()],
                cwd=Path(__file__).parent,
                stdout=out,
                stderr=out,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            guard.watch_process(self._process.pid, signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and waits."""
        self._process.kill()
        self._process.wait(30)
        self._guard.forget_process(self._process.pid)

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        code = self._process.wait(60)
        self._guard.forget_process(self._process.pid)
        return code

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
