"""End a process that is stuck."""

from __future__ import annotations

import os
import threading

STUCK = 4
"""The exit code of a process that ended itself because its work did not move or did not stop."""

_LOG_S = 2.0


def end_process_soon() -> None:
    """End this process in two seconds with exit code ``STUCK``, whatever its threads wait for.

    The time is for the last lines of the log. Nothing is flushed, because a flush may hang.
    """
    timer = threading.Timer(_LOG_S, os._exit, (STUCK,))
    timer.daemon = True
    timer.start()
