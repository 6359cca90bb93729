"""Know whether a replica has what its primary has committed, from an application that reads both."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc, util
from sqlalchemy.engine import Engine

from rowcast.consumer.replica.worker_tables import ROWCAST_POSITION, ROWCAST_REPLICA
from rowcast.shared.backoff import Backoff
from rowcast.shared.database.commit_tokens import CommitToken, lsn_of_token, take_token
from rowcast.shared.database.driver_errors import ServerFault, server_fault
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tracebacks import format_error

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_log = logging.getLogger("rowcast.reads")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.05
_KNOWN_TOKENS = 10_000
_LOG_S = 60.0
# A replica only moves forward. After a restore from a backup it is behind its last answer, for this time at most.
_ANSWER_S = 1.0


class ReadReplica:
    """A replica, as an application sees it that reads from it.

    ``engine``: of the replica's database. ``primary``: the engine of the primary, where a token becomes an lsn. Both
    may be an AsyncEngine. ``source``: the source of ``rowcast.toml``. Thread-safe: make one for each replica and
    process. Nothing here writes, or asks Kafka.
    """

    def __init__(self, engine: Engine | AsyncEngine, *, primary: Engine | AsyncEngine, source: str) -> None:
        self.engine = _synchronous(engine)
        self.primary = _synchronous(primary)
        self._source = source
        self._lsns: OrderedDict[CommitToken, int] = OrderedDict()
        self._lock = threading.Lock()
        self._proving = threading.Lock()
        self._fresh_at = -math.inf
        """The monotonic time up to which the replica has every commit, as far as is proved."""
        self._probe: tuple[float, CommitToken] | None = None
        """A token that the replica did not have yet, and its time."""
        self._answer = (-1, -math.inf)
        """The replica's last lsn, or -1 if it was not consistent, and when it was asked."""
        self._logged_at = -_LOG_S
        row, position = ROWCAST_REPLICA.c, ROWCAST_POSITION.c
        read = sa.select(sa.func.max(position.lsn)).where(position.source == source).scalar_subquery()
        self._applied = sa.select(row.state, row.lsn, read).where(row.source == source)

    def has(self, token: str) -> bool:
        """Return whether the replica has everything that the primary had committed when the token was taken.

        Return False while the replica is not consistent. Raise ValueError for a text that is no token. Raise
        ConfigurationError without the right to read rowcast's tables. Raise SQLAlchemy's errors if a database does not
        answer.
        """
        return self._has(CommitToken.parse(token))

    def wait_for(self, token: str, timeout: float) -> bool:
        """Wait until ``has(token)``, at most ``timeout`` seconds. Return whether it is true. Raise as ``has``."""
        parsed, end = CommitToken.parse(token), time.monotonic() + timeout
        pauses = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        while not self._has(parsed):
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._pause(min(left, pauses.next_pause()))
        return True

    async def async_wait_for(self, token: str, timeout: float) -> bool:  # noqa: ASYNC109  # False at the end is no error
        """Wait as ``wait_for``, for asynchronous engines."""
        return bool(await util.greenlet_spawn(self.wait_for, token, timeout))

    def is_within(self, max_age: float) -> bool:
        """Return whether the replica has every commit that is older than ``max_age`` seconds.

        The databases are asked only if the last proof is older than half of it. Raise as ``has``.
        """
        if time.monotonic() - self._fresh_at > max_age / 2 and self._proving.acquire(blocking=False):
            try:
                self._prove()
            finally:
                self._proving.release()
        return time.monotonic() - self._fresh_at <= max_age

    def is_fresh(self, tokens: tuple[str, ...], max_age: float | None, wait: float) -> bool:
        """Return whether reads may use the replica. Log a database that does not answer, and return False then.

        ``tokens``: the replica must have all, and may take ``wait`` seconds for it. Raise ValueError and
        ConfigurationError as ``has``.
        """
        end = time.monotonic() + wait
        try:
            if not tokens and max_age is None:
                return self._is_consistent()
            return all(self.wait_for(token, max(0.0, end - time.monotonic())) for token in tokens) and (
                max_age is None or self.is_within(max_age)
            )
        except exc.DBAPIError as error:
            now = time.monotonic()
            if now - self._logged_at >= _LOG_S:
                self._logged_at = now
                _log.warning("reads go to the primary, because the replica cannot be used: %s", format_error(error))
            return False

    def take_token(self) -> CommitToken:
        """Return a token for everything that the primary has committed."""
        with self.primary.connect() as connection:
            return take_token(connection, self._source)

    def _prove(self) -> None:
        """Find out up to which time the replica has every commit. A token that it lacked is looked at again."""
        if self._probe is None or self._has_probe(self._probe):
            # The time comes first, because the token may include later commits and lack none.
            now = time.monotonic()
            self._probe = (now, self.take_token())
            self._has_probe(self._probe)

    def _has_probe(self, probe: tuple[float, CommitToken]) -> bool:
        at, token = probe
        if not self._has(token):
            return False
        self._fresh_at, self._probe = at, None
        return True

    def _has(self, token: CommitToken) -> bool:
        lsn = self._lsn_of(token)
        if lsn is None:
            return False
        applied, at = self._answer
        if applied < lsn or time.monotonic() - at > _ANSWER_S:
            applied = self._applied_lsn()
        return applied >= lsn

    def _is_consistent(self) -> bool:
        applied, at = self._answer
        return (applied if time.monotonic() - at <= _ANSWER_S else self._applied_lsn()) >= 0

    def _applied_lsn(self) -> int:
        """Return the lsn up to which the replica has every transaction, or -1 if it is not consistent."""
        at = time.monotonic()
        lsn = self._read_lsn_if_there()
        self._answer = (lsn, at)
        return lsn

    def _read_lsn_if_there(self) -> int:
        try:
            return self._read_lsn()
        except exc.DBAPIError as error:
            if server_fault(error) is not ServerFault.LASTING:
                raise
        with self.engine.connect() as connection:
            names = sa.inspect(connection).get_table_names()
        if not {ROWCAST_REPLICA.name, ROWCAST_POSITION.name} <= set(names):
            return -1  # No worker has begun.
        try:
            return self._read_lsn()
        except exc.DBAPIError as error:
            if server_fault(error) is not ServerFault.LASTING:
                raise
            raise ConfigurationError(
                "reading from the replica needs the right to SELECT from rowcast_replica and rowcast_position: "
                f"{format_error(error)}"
            ) from error

    def _read_lsn(self) -> int:
        with self.engine.connect() as connection:
            row: Any = connection.execute(self._applied).one_or_none()
        if row is None or row[0] != "consistent":
            return -1
        return max(int(row[1]), int(row[2] or 0))

    def _lsn_of(self, token: CommitToken) -> int | None:
        with self._lock:
            if token in self._lsns:
                self._lsns.move_to_end(token)
                return self._lsns[token]
        with self.primary.connect() as connection:
            lsn = lsn_of_token(connection, self._source, token)
        if lsn is not None:
            with self._lock:
                self._lsns[token] = lsn
                if len(self._lsns) > _KNOWN_TOKENS:
                    self._lsns.popitem(last=False)
        return lsn

    def _pause(self, seconds: float) -> None:
        if self.engine.dialect.is_async:
            util.await_only(asyncio.sleep(seconds))
        else:
            time.sleep(seconds)


def _synchronous(engine: Engine | AsyncEngine) -> Engine:
    return engine if isinstance(engine, Engine) else engine.sync_engine
