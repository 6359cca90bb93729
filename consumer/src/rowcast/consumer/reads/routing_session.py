"""A session with its reads on a fresh replica, and everything else on the primary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import SelectBase

from rowcast.consumer.reads.read_replica import ReadReplica
from rowcast.shared.database.commit_tokens import CommitToken

_turns = count()


class RoutingSession(Session):
    """Send the reads of a transaction to a replica, until the transaction writes.

        Session = sessionmaker(engine, class_=RoutingSession, replicas=[replica], max_age=5)

    ``replicas``: the replicas, used in turn. ``token``: reads must see everything up to this token of an earlier
    session. ``max_age``: reads must see every commit older than ``max_age`` seconds. ``wait``: the longest wait of a
    transaction for a replica, in seconds. The other parameters are those of Session. With AsyncSession:
    ``async_sessionmaker(engine, sync_session_class=RoutingSession, replicas=…)``.

    A session reads its own commits. The first SELECT of a transaction chooses: a fresh replica, or the primary. A
    SELECT with FOR UPDATE or with a change inside goes to the primary, and so do SQL text, changes, a flush and
    ``connection()``. After this use of the primary, the rest of the transaction goes to the primary too.
    """

    def __init__(
        self,
        bind: Engine | Connection | None = None,
        *,
        replicas: Sequence[ReadReplica],
        token: str | None = None,
        max_age: float | None = None,
        wait: float = 0.0,
        **options: Any,
    ) -> None:
        """Open a session. Raise ValueError for an invalid token, or for replicas of several primaries."""
        super().__init__(bind, **options)
        if len({id(replica.primary) for replica in replicas}) > 1:
            raise ValueError("the replicas of a RoutingSession must have the same primary")
        self._replicas = tuple(replicas)
        self._max_age = max_age
        self._wait = wait
        self._tokens: tuple[str, ...] = ()
        self._lacks_token = False
        self._has_written = False
        self._reading_from: Engine | None = None
        self._is_on_primary = False
        if token is not None:
            self.require(token)

    @property
    def token(self) -> str | None:
        """Return a token for the commits that this session must see, or None without commits.

        Give the token to the user's next session, for example in a cookie.
        """
        # A token of now includes every commit of several earlier tokens.
        self._lacks_token |= len(self._tokens) > 1
        self._take_token()
        return self._tokens[0] if self._tokens else None

    def require(self, token: str) -> None:
        """Let all later transactions see everything up to a token. Raise ValueError for an invalid token."""
        CommitToken.parse(token)
        self._tokens = (*self._tokens, token)

    @contextmanager
    def on_primary(self) -> Iterator[None]:
        """Send every statement in the block to the primary."""
        before, self._is_on_primary = self._is_on_primary, True
        try:
            yield
        finally:
            self._is_on_primary = before

    def get_bind(self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **options: Any) -> Any:
        """Return the engine for a statement."""
        found = super().get_bind(mapper, clause=clause, bind=bind, **options)
        if bind is not None or not isinstance(found, Engine) or not self._is_primary(found):
            return found
        is_read = _is_read(clause) and not self._flushing
        # Outside of a transaction, a call without a statement only asks for the engine.
        if not is_read and (clause is not None or self.in_transaction()):
            self._has_written = True
        if not is_read or self._has_written:
            return found
        if self._is_on_primary:
            self._reading_from = found
        elif self._reading_from is None:
            self._reading_from = self._choose() or found
        return self._reading_from

    def _is_primary(self, engine: Engine) -> bool:
        return bool(self._replicas) and _behind_facade(engine) is _behind_facade(self._replicas[0].primary)

    def _choose(self) -> Engine | None:
        """Return the engine of a fresh replica, or None."""
        self._take_token()
        first = next(_turns) % len(self._replicas)
        in_turn = self._replicas[first:] + self._replicas[:first]
        for replica in in_turn:
            if replica.is_fresh(self._tokens, self._max_age, 0.0):
                return replica.engine
        if self._wait and in_turn[0].is_fresh(self._tokens, self._max_age, self._wait):
            return in_turn[0].engine
        return None

    def _take_token(self) -> None:
        """Take a token for the commits of this session. The token includes every earlier token."""
        if self._lacks_token:
            self._tokens = (str(self._replicas[0].take_token()),)
            self._lacks_token = False


@event.listens_for(RoutingSession, "after_begin")
def _note_connection(session: RoutingSession, _transaction: SessionTransaction, connection: Connection) -> None:
    # The caller of connection() may write with the connection.
    if session._reading_from is None and session._is_primary(connection.engine):
        session._has_written = True


@event.listens_for(RoutingSession, "after_commit")
def _note_commit(session: RoutingSession) -> None:
    # The token is taken later, at its first use, because the listener must not use a database.
    session._lacks_token |= session._has_written


@event.listens_for(RoutingSession, "after_transaction_end")
def _choose_again(session: RoutingSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session._has_written, session._reading_from = False, None


def _behind_facade(engine: Engine) -> object:
    """Return the engine itself for an engine with execution options."""
    return getattr(engine, "_proxied", engine)


def _is_read(clause: object) -> bool:
    """Return whether a statement is a SELECT without changes and locks, as far as the form shows."""
    if not isinstance(clause, SelectBase):
        return False
    return not any(
        isinstance(element, UpdateBase) or getattr(element, "_for_update_arg", None) is not None
        for element in visitors.iterate(clause)
    )
