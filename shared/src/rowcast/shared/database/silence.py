"""Notice threads that wait for a connection lost by the network, and cut the connection.

TCP's keepalive finds the loss of a machine. Keepalive does not find a stopped server, a load balancer that has
forgotten the connection, or a lost answer, because the kernel of the peer acknowledges every packet. The thread would
wait for ever. A limit for the time of statements would cut long statements too.

Therefore a watching thread looks at every connection for which a thread waits while no byte moves. The watching thread
asks the server, on a new connection, whether the server works for the session. If the server waits for its client too,
has ended the session, or does not answer, the connection is cut. The waiting thread gets the driver's usual error of a
lost connection, and goes its usual way back. The watch needs Linux, because Linux counts the bytes of a connection, and
a driver that shows its socket.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.pool import PoolProxiedConnection

from rowcast.shared.database.open_connections import url_of
from rowcast.shared.database.sessions import SessionState, session_state
from rowcast.shared.database.sockets import cut, moved_bytes
from rowcast.shared.stacks import format_stack

_log = logging.getLogger("rowcast.database")

_TICK_S = 1.0
# The time without traffic before the first look at a connection, so that usual statements cost nothing.
_LOOK_AFTER_S = 3.0
# A long statement is looked at less often.
_LONGEST_PAUSE_S = 30.0
# A connection is cut after this number of equal looks, because an answer may cross a look.
_LOOKS = 2
_CUT_LATELY_S = 30.0
_DRIVERS = ("psycopg", "psycopg2", "pymysql", "MySQLdb", "mysql", "mariadb", "sqlalchemy")
# The names under which drivers and SQLAlchemy hold a connection or a cursor during a wait.
_NAMES = ("self", "connection", "dbapi_connection", "conn", "cursor")


@dataclass(slots=True)
class _Wait:
    """Follow a thread during the wait for a connection."""

    connection: Any
    bytes: int | None
    since: float
    looks: int = 0
    next_look_at: float = 0.0
    state: SessionState | None = None


class SilenceWatch:
    """Watch the threads of this process. ``tick`` is called about once a second."""

    def __init__(self) -> None:
        self._frames: dict[int, int] = {}
        self._waits: dict[int, _Wait] = {}
        self._cut_at: dict[URL, float] = {}
        self._ticks: deque[float] = deque(maxlen=2)

    def state_of(self, thread: int) -> SessionState | None:
        """Return what the server last did for the connection for which the thread waits, or None if unknown."""
        wait = self._waits.get(thread)
        return None if wait is None else wait.state

    def is_undecided(self, thread: int, since: float) -> bool:
        """Return whether the state is unknown only because the look at the thread's connection is still to come.

        ``since``: the thread has not moved since this time of the monotonic clock. On a busy machine a look is late.
        """
        wait = self._waits.get(thread)
        if wait is not None:
            return wait.state is None and wait.bytes is not None
        # The second tick knows which calls have not returned since the first.
        return len(self._ticks) < 2 or self._ticks[0] <= since

    def tick(self) -> None:
        """Look at the connections for which threads wait."""
        now = time.monotonic()
        waiting = dict(self._waiting_threads())
        for thread in self._waits.keys() - waiting.keys():
            del self._waits[thread]
        for thread, connection in waiting.items():
            wait = self._waits.get(thread)
            moved = moved_bytes(connection)
            if wait is None or wait.connection is not connection or wait.bytes != moved:
                pause = 0.0 if self._cut_lately(connection) else _LOOK_AFTER_S
                self._waits[thread] = _Wait(connection, moved, now, next_look_at=now + pause)
            elif now >= wait.next_look_at and moved is not None:
                self._look(thread, wait)
        self._ticks.append(now)

    def _waiting_threads(self) -> Iterator[tuple[int, Any]]:
        """Yield the threads that have been inside a driver since the last call, with the connection that they use."""
        frames = {thread: _driver_frame(frame) for thread, frame in sys._current_frames().items()}
        inside = {thread: frame for thread, frame in frames.items() if frame is not None}
        for thread, frame in inside.items():
            # Usual statements end before the next tick. Only then are the variables of another thread read.
            if self._frames.get(thread) == id(frame) and (connection := _connection_in(frame)) is not None:
                yield thread, connection
        self._frames = {thread: id(frame) for thread, frame in inside.items()}

    def _look(self, thread: int, wait: _Wait) -> None:
        url = url_of(wait.connection)
        if url is None:
            return
        state = session_state(url, wait.connection)
        now = time.monotonic()
        wait.looks = wait.looks + 1 if state is wait.state else 1
        wait.state = state
        if state in (SessionState.WORKING, SessionState.UNKNOWN):
            wait.next_look_at = now + min(now - wait.since, _LONGEST_PAUSE_S)
            return
        wait.next_look_at = now
        # The look took time, in which the answer may have come.
        looks = 1 if self._cut_lately(wait.connection) else _LOOKS
        if wait.looks >= looks and moved_bytes(wait.connection) == wait.bytes:
            _log.warning(
                "the connection to %s is silent: a statement has waited for %.0f s, and %s. Cutting the connection. "
                "The thread waits here:\n%s",
                url.set(query={}), now - wait.since, state.value, format_stack(thread),
            )  # fmt: skip
            cut(wait.connection)
            self._cut_at[url] = time.monotonic()

    def _cut_lately(self, connection: Any) -> bool:
        """Return whether another connection was silent just now. Then a second silent connection is likely."""
        url = url_of(connection)
        return url is not None and time.monotonic() - self._cut_at.get(url, -math.inf) < _CUT_LATELY_S


def _driver_frame(frame: FrameType | None) -> FrameType | None:
    """Return the innermost call of a thread that is inside a driver or SQLAlchemy, or None."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in _DRIVERS:
            return frame
        frame = frame.f_back
    return None


def _connection_in(frame: FrameType | None) -> Any:
    """Return the connection of rowcast's that the calls from ``frame`` outwards use, or None without a connection."""
    while (frame := _driver_frame(frame)) is not None:
        values = frame.f_locals
        for name in _NAMES:
            if (connection := _connection_of(values.get(name))) is not None:
                return connection
        frame = frame.f_back
    return None


def _connection_of(value: Any) -> Any:
    if isinstance(value, PoolProxiedConnection):
        value = value.dbapi_connection
    # SQLAlchemy's other objects are left alone, because their attribute may open a connection.
    if value is None or type(value).__module__.startswith("sqlalchemy."):
        return None
    for candidate in (value, getattr(value, "connection", None)):
        if candidate is not None and url_of(candidate) is not None:
            return candidate
    return None


_lock = threading.Lock()
_users = 0
_stop = threading.Event()
_watch = SilenceWatch()


@contextmanager
def watched_connections() -> Iterator[SilenceWatch]:
    """Watch the connections of this process in a thread until the block ends. Blocks share one thread."""
    global _users, _stop
    with _lock:
        _users += 1
        if _users == 1:
            _stop = threading.Event()
            threading.Thread(target=_run, args=(_stop,), name="rowcast-silence", daemon=True).start()
    try:
        yield _watch
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _stop.set()


def _run(stop: threading.Event) -> None:
    while not stop.wait(_TICK_S):
        try:
            _watch.tick()
        except Exception:  # noqa: BLE001  # the next tick looks again
            # The watch must outlive any state in which it finds another thread's objects.
            _log.exception("looking at the connections failed")
