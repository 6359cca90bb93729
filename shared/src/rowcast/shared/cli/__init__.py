"""Find, run and show the commands of both sides."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["main"]


def main() -> None:
    """Run the console script."""
    with _without_traceback():
        from rowcast.shared.cli.app import main as run
    run()


@contextmanager
def _without_traceback() -> Iterator[None]:
    """Let Ctrl-C end the process at once. Python would print the place in an import."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
