"""The interface between a rebuild and an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from sqlalchemy.engine import Connection

from rowcast.consumer.rebuild.swapped_table import SwappedTable


class SwapDialect(ABC):
    """Swap tables on an engine.

    Each call is for all tables of the rebuild. A connection is outside of any transaction, unless a method says
    otherwise.
    """

    @abstractmethod
    def obstacles(
        self, connection: Connection, tables: Sequence[SwappedTable], rest: Sequence[SwappedTable]
    ) -> list[str]:
        """Return what depends on the live tables and would be lost, each by name and with the next step.

        ``rest``: the worker's tables that stay. Their foreign keys are created again after the swap.
        """

    @abstractmethod
    def complete(self, connection: Connection, tables: Sequence[SwappedTable], *, is_part: bool) -> None:
        """Give the fresh tables the user's indexes and rights of the live tables. The call can be repeated.

        ``is_part``: also create the worker's indexes for foreign keys to tables that stay.

        Raise the driver's errors, also for a lock that is not granted within half a second.
        """

    def wait_for_snapshots(self, connection: Connection) -> list[str]:
        """Return the sessions that must end first, because the sessions could see incomplete fresh tables.

        Called again until no session is returned.
        """
        return []

    @abstractmethod
    def swap(
        self, connection: Connection, tables: Sequence[SwappedTable], first: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Rename all tables: live to old, fresh to live. Inside a transaction if the engine has transactional DDL.

        Drop the worker's foreign keys between the live tables and tables that stay.

        ``first``: renames to begin with, on an engine without transactional DDL.

        Raise the driver's errors. A lock not granted within half a second is an error too, so that readers never wait
        longer behind the swap.
        """

    @abstractmethod
    def drop(self, connection: Connection, names: Sequence[tuple[str | None, str]]) -> None:
        """Drop tables by schema and name, despite foreign keys between the tables. A missing table is no error."""
