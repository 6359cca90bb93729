"""SIGTERM and Ctrl-C ask long work to stop after the batch in hand."""

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
    """Gives the event that the first SIGTERM or SIGINT sets; a second signal ends the process in the usual way.

    ``more`` signals mean the same. It is never raised into the work, which may be in the middle of a commit.
    """
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, *more)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, _frame: FrameType | None) -> None:
        restore()
        stop.set()
        _log.info("%s: stopping after the batch in hand", signal.Signals(number).name)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
