"""Waiting for a read that may take longer than a lease."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import TypeVar

_T = TypeVar("_T")

_SLICE_S = 0.1


def patiently(read: Callable[[], _T], meanwhile: Callable[[], None]) -> _T:
    """What ``read`` returns, or raises; it runs in a thread, and ``meanwhile`` is called now and then. The two must
    have no connection in common.

    What ``meanwhile`` raises is raised when the read has ended.
    """
    reading = Future[_T]()

    def run() -> None:
        try:
            reading.set_result(read())
        except BaseException as error:  # noqa: BLE001  # it is the caller's
            reading.set_exception(error)

    # A daemon, as an application's relay is: it must not hold up the end of the process.
    thread = threading.Thread(target=run, name="rowcast-relay-reading", daemon=True)
    thread.start()
    try:
        while not wait_for((reading,), _SLICE_S).done:
            meanwhile()
    finally:
        thread.join()
    return reading.result()
