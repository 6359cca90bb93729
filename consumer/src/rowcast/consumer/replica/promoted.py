"""A promoted replica is a primary, so no worker, rebuild or comparison may use the database as a replica."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.consumer.events.position import StoredState
from rowcast.consumer.replica.positions import read_row
from rowcast.consumer.replica.worker_tables import ROWCAST_REPLICA
from rowcast.shared.errors import ConfigurationError

PROMOTED_STATES: frozenset[StoredState] = frozenset(("promoting", "promoted"))


class PromotedError(ConfigurationError):
    """Refuse to use a promoted replica as a replica."""


def promoted_error(name: str, state: StoredState) -> PromotedError:
    """Return the error with the next step. ``name``: the name of the replica, or REPLICA."""
    if state == "promoting":
        return PromotedError(
            f"the promotion of replica {name} is not finished, and workers write nothing to it any more. Finish it: "
            f"rowcast promote {name}"
        )
    return PromotedError(
        f"replica {name} was promoted and is a primary now, so workers write nothing to it. Name its url in [primary], "
        f"and remove [replicas.{name}] from the configuration. To replicate to this server again, name a new database."
    )


def require_not_promoted(engine: Engine, source: str, name: str) -> None:
    """Raise PromotedError if the replica of a source in this database was promoted, or is being promoted."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(ROWCAST_REPLICA.name):
            return
        row = read_row(connection, source)
    if row is not None and row.state in PROMOTED_STATES:
        raise promoted_error(name, row.state)
