"""Read in a thread, because a read may take longer than a lease."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import TypeVar

_T = TypeVar("_T")

_RENEW_EVERY_S = 0.1


def read_in_background(read: Callable[[], _T], renew_lease: Callable[[], None]) -> _T:
    """Run ``read`` in a thread and return its result. Call ``renew_lease`` every 0.1 s until the read has ended.

    The two functions must not share a connection. Raises the errors of ``read``. Raises the errors of ``renew_lease``
    too, after the read has ended and its connection is free.
    """
    reading = Future[_T]()

    def run() -> None:
        try:
            reading.set_result(read())
        except BaseException as error:  # noqa: BLE001  # the caller gets the error
            reading.set_exception(error)

    # A daemon thread, because a relay inside an application must not delay the end of the process.
    thread = threading.Thread(target=run, name="rowcast-relay-reading", daemon=True)
    thread.start()
    try:
        while not wait_for((reading,), _RENEW_EVERY_S).done:
            renew_lease()
    finally:
        thread.join()
    return reading.result()
