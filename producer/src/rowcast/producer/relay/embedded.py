"""Run the relay in a thread of the application, or inside a command."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rowcast.producer.relay.main_loop import Relay
from rowcast.producer.relay.progress import OnProgress, RelayProgress
from rowcast.shared import row_values
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import RowcastError
from rowcast.shared.stacks import format_stack
from rowcast.shared.tracebacks import format_error, format_traceback
from rowcast.shared.vitals import Vitals
from rowcast.shared.watchdog import watchdog

_log = logging.getLogger("rowcast.relay")

_STOP_LIMIT_S = 10.0


class NotifiesOfCommits(Protocol):
    """Declare the method of ``rowcast.producer.Capture`` that wakes a relay."""

    def on_commit(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` after each captured commit, until the returned function is called."""


class RelayThread:
    """Run a relay in a thread of this process. ``error``: the error that ended the thread.

    ``log_values``: show values of rows in the traceback of an unknown error.
    """

    def __init__(self, relay: Relay, *, log_values: bool = False) -> None:
        self.error: BaseException | None = None
        self._relay = relay
        self._log_values = log_values
        self._stop = threading.Event()
        # A daemon thread, because an application that ends without leaving the block must not hang.
        self._thread = threading.Thread(target=self._run, name="rowcast-relay", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._relay.run(self._stop)
        except Exception as error:  # noqa: BLE001  # the application must see any error
            self.error = error
            # The message of rowcast's own errors is sufficient without a traceback. The application's handlers would
            # show values in a traceback of ``exc_info``.
            text = str(error) if isinstance(error, RowcastError) else self._format_bug(error)
            _log.error("the relay has stopped: %s", text)

    def _format_bug(self, error: Exception) -> str:
        with row_values.shown_if(self._log_values):
            return f"{format_error(error)}\n{format_traceback(error)}"

    @property
    def progress(self) -> RelayProgress:
        """Return the progress of the relay."""
        return self._relay.progress

    @property
    def is_running(self) -> bool:
        """Return whether the thread runs. The thread ends after a lasting error."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Finish the open claims and end the thread. Leave a thread behind that does not end in ten seconds."""
        self._stop.set()
        self._relay.wake()
        self._thread.join(_STOP_LIMIT_S)
        if self._thread.is_alive():
            assert self._thread.ident is not None
            _log.error(
                "the relay has not stopped in %.0f s, and is left behind. Another relay takes over when its lease "
                "ends. It is here:\n%s",
                _STOP_LIMIT_S, format_stack(self._thread.ident),
            )  # fmt: skip


@contextmanager
def running(
    settings: Settings, capture: NotifiesOfCommits | None = None, on_progress: OnProgress | None = None
) -> Iterator[RelayThread]:
    """Run a relay in a thread for the length of the block. Each commit of ``capture`` wakes the relay.

    The relay waits for a database or a Kafka that does not answer. The application's commits never wait for the relay.
    A lasting error ends the thread, is logged, and is in ``RelayThread.error``. ``on_progress`` is
    called in the thread, many times a second. A watchdog logs where the relay is if it does not move, and never ends
    the application's process. Raises ConfigurationError, MissingExtraError.
    """
    capture_source = getattr(capture, "source", settings.source)
    if capture_source != settings.source:
        _log.warning(
            "the capture has the source %r, and the relay's configuration has the source %r, which names topics and "
            "events. Give both the same source",
            capture_source,
            settings.source,
        )
    engine = open_engine(settings.require_primary().sqlalchemy_url, "primary")
    try:
        relay = Relay(settings, engine, on_progress, wait_for_servers=True)
        with watchdog(relay.vitals, settings.watchdog):
            thread = RelayThread(relay, log_values=settings.log_values)
            unsubscribe = capture.on_commit(relay.wake) if capture is not None else None
            try:
                yield thread
            finally:
                if unsubscribe is not None:
                    unsubscribe()
                thread.stop()
    finally:
        engine.dispose()


def run_relay(
    settings: Settings,
    once: bool,
    stop: threading.Event,
    on_progress: OnProgress | None = None,
    vitals: Vitals | None = None,
    *,
    new_timeline: int | None = None,
) -> RelayProgress:
    """Run a relay in this thread until ``stop`` is set, or until the outbox is empty if ``once``.

    ``vitals``: where the relay's loop shows that it goes round. ``new_timeline``: the number of the timeline that may
    begin after the primary or Kafka has lost something.

    Raises ConfigurationError, MissingExtraError, UnreachableError if a server does not answer at the start, and
    DataError for an unpublishable outbox row.
    """
    engine = open_engine(settings.require_primary().sqlalchemy_url, "primary")
    try:
        relay = Relay(settings, engine, on_progress, vitals=vitals, new_timeline=new_timeline)
        if once:
            relay.run_once(stop)
        else:
            relay.run(stop)
        return relay.progress
    finally:
        engine.dispose()
