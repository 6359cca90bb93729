"""Wait until a replica has applied what the primary has committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.replica import positions
from rowcast.consumer.replica.worker_tables import ROWCAST_POSITION
from rowcast.consumer.verification.compared_database import ComparedDatabase
from rowcast.consumer.verification.results import VerifyStoppedError

_POLL_S = 0.05
_OUTBOX = sa.table("rowcast_outbox", sa.column("id"))
_LAST = sa.select(sa.func.max(_OUTBOX.c.id))


class BehindError(Exception):
    """The replica has not caught up in time. The message says who is late."""


class CatchingUp:
    """Wait for the relay and the worker of one replica, for ``wait_s`` seconds in all, or until ``stop`` is set.

    ``source``: the source under which the replica's positions are recorded.
    """

    def __init__(
        self,
        primary: ComparedDatabase,
        replica: ComparedDatabase,
        source: str,
        wait_s: float,
        stop: threading.Event | None = None,
    ) -> None:
        self._primary = primary
        self._replica = replica
        self.source = source
        self._left_s = wait_s
        self.stop = stop or threading.Event()

    def has_outbox_rows(self) -> bool:
        """Return whether transactions of the primary wait to be published."""
        with self._primary.connect() as connection:
            return _last_outbox_id(connection) is not None

    def wait_for_relay(self) -> None:
        """Wait until every transaction that has been committed so far is published. Raise BehindError."""
        with self._primary.connect() as connection:
            last = _last_outbox_id(connection)
            if last is None:
                return
            waiting = sa.select(_OUTBOX.c.id).where(_OUTBOX.c.id <= last).limit(1)
            self._wait(
                lambda: connection.execute(waiting).first() is None,
                "the relay has not published all transactions of the outbox. See that a relay runs",
            )

    def wait_for_worker(self, are_applied: Callable[[Mapping[Partition, Position]], bool]) -> None:
        """Wait until the condition holds for the replica's positions. Raise BehindError."""
        with self._replica.connect() as connection:
            if not sa.inspect(connection).has_table(ROWCAST_POSITION.name):
                raise BehindError("no worker has run for the replica. Start one")
            self._wait(
                lambda: are_applied(positions.read_positions(connection, self.source)),
                "the worker has not applied all events of the topics. See that a worker runs",
            )

    def _wait(self, condition: Callable[[], bool], reason: str) -> None:
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > self._left_s:
                self._left_s = 0
                raise BehindError(reason)
            if self.stop.wait(_POLL_S):
                raise VerifyStoppedError
        self._left_s -= time.monotonic() - began


def _last_outbox_id(connection: Connection) -> int | None:
    """Return the greatest id in the outbox, or None without rows or without an outbox."""
    if not sa.inspect(connection).has_table(_OUTBOX.name):
        return None
    return connection.execute(_LAST).scalar()
