"""A token for all commits of a primary so far, and the lsn at which a replica has the commits.

The lsn of a transaction is not known at its commit, because the relay gives lsns later. A token therefore holds two
numbers of one moment: the last lsn given by a relay, and the greatest id in the outbox. Every transaction committed by
then either has an lsn up to the first number, or outbox rows with ids up to the second.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.shared.database import driver_messages
from rowcast.shared.database.driver_errors import ServerFault, server_fault
from rowcast.shared.errors import ConfigurationError

_OUTBOX = sa.table("rowcast_outbox", sa.column("id"))
_LEASE = sa.table("rowcast_lease", sa.column("source"), sa.column("next_lsn"), sa.column("published_lsn"))
_CLAIM = sa.table("rowcast_claim", sa.column("last_lsn"), sa.column("outbox_ids"))
_PARKED = sa.table("rowcast_parked", sa.column("id"), sa.column("parked_ms"))

_FORM = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})\.([0-9]{1,15})")
# With more rows in the outbox, no replica is fresh soon.
_MOST_ROWS = 5_000
# A transaction may be parked between its commit and its token. The clocks of two machines may differ, too.
_PARKED_BEFORE_MS = 60_000


@dataclass(frozen=True, slots=True)
class CommitToken:
    """Every transaction committed at the primary by ``at_ms`` (milliseconds since 1970).

    ``claimed_lsn``: the last lsn given by a relay. ``last_id``: the greatest id in the outbox, 0 for an empty outbox.
    """

    claimed_lsn: int
    last_id: int
    at_ms: int

    def __str__(self) -> str:
        return f"{self.claimed_lsn}.{self.last_id}.{self.at_ms}"

    @staticmethod
    def parse(text: str) -> CommitToken:
        """Return the token of a text. Raise ValueError for an invalid text, because tokens travel through browsers."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError("this is no token: a token is what capture.token returns")
        return CommitToken(*map(int, found.groups()))


def take_token(connection: Connection, source: str) -> CommitToken:
    """Return a token for all commits of the primary. Raise ConfigurationError without an outbox."""
    last_id = sa.select(sa.func.max(_OUTBOX.c.id)).scalar_subquery()
    next_lsn = sa.select(_LEASE.c.next_lsn).where(_LEASE.c.source == source).scalar_subquery()
    # A single statement sees a single moment.
    row = _read(connection, sa.select(next_lsn, last_id)).one()
    return CommitToken((row[0] or 1) - 1, row[1] or 0, time.time_ns() // 1_000_000)


def lsn_of_token(connection: Connection, source: str, token: CommitToken) -> int | None:
    """Return the lsn at which a replica has every transaction of the token. None: the relay has not claimed all yet.

    ``connection``: of the primary.
    """
    rows = _read(connection, sa.select(_OUTBOX.c.id).where(_OUTBOX.c.id <= token.last_id).limit(_MOST_ROWS))
    waiting = set(rows.scalars())
    if len(waiting) == _MOST_ROWS or _is_parked(connection, token):
        return None
    # Afterwards, because a row is deleted in the transaction that raises the published lsn.
    lease = sa.select(_LEASE.c.published_lsn).where(_LEASE.c.source == source)
    lsn = max(token.claimed_lsn, _read(connection, lease).scalar() or 0)
    if not waiting:
        return lsn
    for last_lsn, ids in _read(connection, sa.select(_CLAIM.c.last_lsn, _CLAIM.c.outbox_ids)):
        claimed = waiting.intersection(orjson.loads(ids))
        if claimed:
            waiting -= claimed
            lsn = max(lsn, last_lsn)
    return None if waiting else lsn


def _is_parked(connection: Connection, token: CommitToken) -> bool:
    """Return whether a transaction of the token may have been parked. A parked transaction reaches no replica."""
    parked = _PARKED.c
    since = parked.parked_ms >= token.at_ms - _PARKED_BEFORE_MS
    own = (parked.id <= token.last_id) | (parked.parked_ms <= token.at_ms)
    return _read(connection, sa.select(parked.id).where(since, own).limit(1)).first() is not None


def _read(connection: Connection, statement: sa.Select[*tuple[Any, ...]]) -> sa.CursorResult[*tuple[Any, ...]]:
    try:
        return connection.execute(statement)
    except exc.DBAPIError as error:
        if server_fault(error) is not ServerFault.LASTING:
            raise
        raise ConfigurationError(
            "a token needs the outbox tables of the primary, and the right to SELECT from rowcast_outbox, "
            f"rowcast_lease, rowcast_claim and rowcast_parked: {driver_messages.message(error)}"
        ) from error
