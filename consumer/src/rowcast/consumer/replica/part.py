"""The part of a process in a load by several processes.

The dividing process takes the replica over, creates the tables, and gives each other process a row in
``rowcast_replica`` and positions of its own. The other processes write rows and positions only while their row has the
epoch of the division. A new division has a new epoch, and the end of a load deletes the rows, so a left over process
can write nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.replica.dialects.naming import share_source
from rowcast.consumer.replica.worker_tables import ROWCAST_REPLICA
from rowcast.shared.errors import ConfigurationError, RowcastError

MOST_SHARES = 64


@dataclass(frozen=True, slots=True)
class Part:
    """The rights of one process of a divided load.

    ``tables_source``: the value of ``source`` in ``rowcast_table`` for the tables. ``epoch``: the epoch of the
    division, or None for the dividing process. Only the dividing process creates and changes tables.
    """

    tables_source: str
    epoch: int | None = None

    @property
    def may_change_tables(self) -> bool:
        """Return whether the process creates and changes tables."""
        return self.epoch is None


class TablesChangedError(RowcastError):
    """Report a shape newer than the tables of a divided load."""


def share_sources(source: str) -> list[str]:
    """Return the possible values of ``source`` in the worker's tables for the processes of a divided load."""
    return [share_source(source, number) for number in range(1, MOST_SHARES + 1)]


def is_divided(connection: Connection, source: str) -> bool:
    """Return whether several processes fill the tables, or were to fill the tables when they were interrupted."""
    row = ROWCAST_REPLICA.c
    query = sa.select(row.source).where(row.source.in_(share_sources(source))).limit(1)
    return connection.execute(query).first() is not None


def require_undivided(connection: Connection, source: str, command: str) -> None:
    """Raise ConfigurationError if the shares of an interrupted load are not complete."""
    if is_divided(connection, source):
        raise ConfigurationError(
            f"a rebuild was interrupted while several processes filled the tables of source {source!r}, so a single "
            f"worker cannot go on. Run {command} again, with the options of the first time."
        )
