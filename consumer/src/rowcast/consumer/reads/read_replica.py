"""Know whether a replica has the commits of its primary, in an application with connections to both."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc, util
from sqlalchemy.engine import Engine

from rowcast.consumer.replica.worker_tables import ROWCAST_DEAD_LETTER, ROWCAST_POSITION, ROWCAST_REPLICA
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
# A replica only moves forward. After a restore from a backup, a cached answer is too new, for this time at most.
_ANSWER_S = 1.0


_READ_TABLES = (ROWCAST_REPLICA, ROWCAST_POSITION, ROWCAST_DEAD_LETTER)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The replica's last answer. ``lsn``: the replica has every transaction up to this lsn, -1 if not consistent.

    ``has_letters``: some transactions were refused. ``at``: the monotonic time.
    """

    lsn: int = -1
    has_letters: bool = False
    at: float = -math.inf

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self.at > _ANSWER_S


class ReadReplica:
    """A replica that an application reads from.

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
        self._answer = _Answer()
        self._logged_at = -_LOG_S
        row, position, letter = ROWCAST_REPLICA.c, ROWCAST_POSITION.c, ROWCAST_DEAD_LETTER.c
        read = sa.select(sa.func.max(position.lsn)).where(position.source == source).scalar_subquery()
        letters = sa.select(sa.func.count()).select_from(ROWCAST_DEAD_LETTER).where(letter.source == source)
        self._query = sa.select(row.state, row.lsn, read, letters.scalar_subquery()).where(row.source == source)

    def has(self, token: str) -> bool:
        """Return whether the replica has everything that the primary had committed when the token was taken.

        Return False while the replica is not consistent. Raise ValueError for a text that is no token. Raise
        ConfigurationError without the right to read rowcast's tables. Raise SQLAlchemy's errors if a database does not
        answer.
        """
        return self._has(CommitToken.parse(token))

    def wait_for(self, token: str, timeout: float) -> bool:
        """Wait until ``has(token)``, at most ``timeout`` seconds.

        Return the last answer of ``has``. Raise as ``has``.
        """
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

        The databases are asked only if the last proof is older than half of ``max_age``. Raise as ``has``.
        """
        if time.monotonic() - self._fresh_at > max_age / 2 and self._proving.acquire(blocking=False):
            try:
                self._prove(max_age)
            finally:
                self._proving.release()
        return time.monotonic() - self._fresh_at <= max_age

    def is_fresh(self, tokens: tuple[str, ...], max_age: float | None, wait: float) -> bool:
        """Return whether reads may use the replica. Log a silent database, and return False.

        ``tokens``: the replica must have all, within ``wait`` seconds. Raise ValueError and ConfigurationError as
        ``has``.
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
        """Return a token for all commits of the primary."""
        with self.primary.connect() as connection:
            return take_token(connection, self._source)

    def _prove(self, max_age: float) -> None:
        """Find out up to which time the replica has every commit.

        A token that the replica lacked is checked again until too old for a proof. The replica may lack the token for
        ever, because a transaction was parked.
        """
        # The time comes first, because the token may include later commits and lack none.
        now = time.monotonic()
        if self._probe is None or now - self._probe[0] > max_age or self._has_probe(self._probe):
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
        answer = self._answer
        if answer.lsn < lsn or answer.has_letters or answer.is_old:
            answer = self._ask()
        # The transaction of the token may be among the dead letters.
        return answer.lsn >= lsn and not answer.has_letters

    def _is_consistent(self) -> bool:
        answer = self._ask() if self._answer.is_old else self._answer
        return answer.lsn >= 0

    def _ask(self) -> _Answer:
        at = time.monotonic()
        self._answer = replace(self._read_if_there(), at=at)
        return self._answer

    def _read_if_there(self) -> _Answer:
        try:
            return self._read()
        except exc.DBAPIError as error:
            if server_fault(error) is not ServerFault.LASTING:
                raise
        with self.engine.connect() as connection:
            names = sa.inspect(connection).get_table_names()
        if not {table.name for table in _READ_TABLES} <= set(names):
            return _Answer()  # No worker of this version has begun.
        try:
            return self._read()
        except exc.DBAPIError as error:
            if server_fault(error) is not ServerFault.LASTING:
                raise
            raise ConfigurationError(
                f"reading from the replica needs the right to SELECT from {', '.join(t.name for t in _READ_TABLES)}: "
                f"{format_error(error)}"
            ) from error

    def _read(self) -> _Answer:
        with self.engine.connect() as connection:
            row: Any = connection.execute(self._query).one_or_none()
        if row is None or row[0] != "consistent":
            return _Answer()
        return _Answer(max(int(row[1]), int(row[2] or 0)), row[3] > 0)

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
