"""The relay inside the application's process, or inside a command."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rowcast.producer.relay.process import Relay
from rowcast.producer.relay.progress import OnProgress, RelayProgress
from rowcast.shared.config import Settings
from rowcast.shared.databases import open_engine
from rowcast.shared.errors import RowcastError

_log = logging.getLogger("rowcast.relay")


class NotifiesOfCommits(Protocol):
    """What ``rowcast.producer.Capture`` offers."""

    def on_commit(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls ``callback`` after each captured commit, until what it returns is called."""


class RelayThread:
    """A relay at work in a thread of this process. ``error``: what ended it, if anything did."""

    def __init__(self, relay: Relay) -> None:
        self.error: BaseException | None = None
        self._relay = relay
        self._stop = threading.Event()
        # A daemon: an application that ends without leaving the block must not hang.
        self._thread = threading.Thread(target=self._run, name="rowcast-relay", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._relay.run(self._stop)
        except Exception as error:  # noqa: BLE001  # the application must hear of it, whatever it is
            self.error = error
            # The message of our own errors says it all.
            _log.error("the relay has stopped: %s", error, exc_info=not isinstance(error, RowcastError))

    @property
    def progress(self) -> RelayProgress:
        """How far it is."""
        return self._relay.progress

    @property
    def is_running(self) -> bool:
        """False after an error that waiting cannot mend."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Finishes the batch in hand, then ends."""
        self._stop.set()
        self._relay.wake()
        self._thread.join()


@contextmanager
def running(
    settings: Settings, capture: NotifiesOfCommits | None = None, on_progress: OnProgress | None = None
) -> Iterator[RelayThread]:
    """A relay for the length of the block, in a thread that each commit which ``capture`` sees wakes.

    It waits for a database or a Kafka that does not answer; the application's commits never wait for it. What the relay
    cannot mend ends the thread: it is logged, and in ``error``. ``on_progress`` is called in the thread, often. Raises
    ConfigurationError, MissingExtraError.
    """
    named = getattr(capture, "source", settings.source)
    if named != settings.source:
        _log.warning(
            "the capture is of the source %r, the relay's configuration of %r, by which topics and events are named: "
            "give both the same",
            named,
            settings.source,
        )
    engine = open_engine(settings.require_primary().sqlalchemy_url, "primary")
    try:
        relay = Relay(settings, engine, on_progress, patient=True)
        thread = RelayThread(relay)
        forget = capture.on_commit(relay.wake) if capture is not None else None
        try:
            yield thread
        finally:
            if forget is not None:
                forget()
            thread.stop()
    finally:
        engine.dispose()


def run_relay(
    settings: Settings, once: bool, stop: threading.Event, on_progress: OnProgress | None = None
) -> RelayProgress:
    """Runs a relay in this thread until ``stop`` is set or, ``once``, until the outbox is empty.

    Raises ConfigurationError, MissingExtraError, UnreachableError if a server does not answer at the start, and
    DataError for an outbox row that cannot be published.
    """
    engine = open_engine(settings.require_primary().sqlalchemy_url, "primary")
    try:
        relay = Relay(settings, engine, on_progress)
        if once:
            relay.run_once(stop)
        else:
            relay.run(stop)
        return relay.progress
    finally:
        engine.dispose()
