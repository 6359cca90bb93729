"""Show where a thread is, and whether it computes."""

from __future__ import annotations

import sys
import time
import traceback

_LIMIT = 12
_LIBRARIES = ("site-packages", "dist-packages")


def format_stack(thread: int) -> str:
    """Return the innermost calls of a thread, and of the libraries' calls only the innermost. Show no values."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "  (the thread has ended)"
    calls = traceback.extract_stack(frame)
    own = [call for call in calls[:-1] if not any(part in call.filename for part in _LIBRARIES)]
    return "".join(traceback.format_list([*own[-_LIMIT:], calls[-1]])).rstrip()


def cpu_seconds(thread: int) -> float | None:
    """Return the CPU time of a thread, or None if the system cannot say or the thread has ended."""
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    except (AttributeError, OSError, OverflowError):
        return None
