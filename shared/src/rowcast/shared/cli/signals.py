"""Let SIGTERM and Ctrl-C stop long work after the current batch."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_log = logging.getLogger("rowcast.cli")


@contextmanager
def stop_on_signals(*more: signal.Signals) -> Iterator[threading.Event]:
    """Yield an event. The first SIGTERM or SIGINT sets the event. A second signal ends the process in the usual way.

    ``more``: further signals of this kind. No signal raises an exception, because the work may be in a commit.
    """
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, *more)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, _frame: FrameType | None) -> None:
        restore()
        stop.set()
        _log.info("%s: stopping after the current batch", signal.Signals(number).name)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
