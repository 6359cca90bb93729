"""Run relays in threads, and wait for what they do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rowcast.producer.relay import Relay


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until ``condition`` returns true. Raises AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        threading.Event().wait(0.01)


class RunningRelay:
    """Run a relay in a thread. ``ended_by``: the error at the end of the relay, or None."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.ended_by: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.relay.run(self._stop)
        except Exception as error:  # noqa: BLE001  # the test asks for it
            self.ended_by = error

    def stop(self) -> None:
        self._stop.set()
        self.relay.wake()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the relay does not stop"


@contextmanager
def running_thread(relay: Relay) -> Iterator[RunningRelay]:
    """Let the relay lead or stand by until the block ends."""
    thread = RunningRelay(relay)
    try:
        yield thread
    finally:
        thread.stop()
