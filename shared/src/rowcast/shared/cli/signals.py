"""Let SIGTERM and Ctrl-C stop long work after the current batch, and end the process if the work does not stop."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rowcast.shared.process_end import STUCK, end_process_soon
from rowcast.shared.stacks import format_stack

_log = logging.getLogger("rowcast.cli")

_STOP_LIMIT_S = 7.5
"""The work has this long to stop. With the last lines of the log, the process ends within 10 s of the signal."""


@contextmanager
def stop_on_signals(*more: signal.Signals, ends: bool = True) -> Iterator[threading.Event]:
    """Yield an event. The first SIGTERM or SIGINT sets the event. A second signal ends the process in the usual way.

    ``more``: further signals of this kind. No signal raises an exception, because the work may be in a commit.
    ``ends``: end the process with exit code 4 if the block has not ended within 10 s of the first signal.
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
        if ends:
            with _stopped_in_time(stop, frozenset(before)):
                yield stop
        else:
            yield stop
    finally:
        restore()


@contextmanager
def _stopped_in_time(stop: threading.Event, numbers: frozenset[int]) -> Iterator[None]:
    """End the process if the block has not ended some seconds after one of the signals.

    The main thread may be inside a driver, where Python calls no handler of a signal. Therefore a thread waits for the
    bytes that Python's own handler writes for each signal.
    """
    main = threading.get_ident()
    ended = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def wait_for_signal() -> None:
        with reader:
            while (received := reader.recv(1)) and received[0] not in numbers:
                pass
        if received:
            stop.set()
            if not ended.wait(_STOP_LIMIT_S):
                # First, because the log may hang too.
                end_process_soon()
                _log.warning(
                    "the work has not stopped in %.1f s. The process ends with exit code %d. Whatever was not "
                    "committed is done again after the next start. It is here:\n%s",
                    _STOP_LIMIT_S, STUCK, format_stack(main),
                )  # fmt: skip

    threading.Thread(target=wait_for_signal, name="rowcast-signals", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous)
        writer.close()
