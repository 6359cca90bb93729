"""Warn of triggers of the replica's tables, because a row changed by a trigger is not the primary's."""

from __future__ import annotations

import logging
from collections.abc import Collection

from sqlalchemy.engine import Connection

from rowcast.consumer.replica.dialects import ReplicaDialect, TableName

_log = logging.getLogger("rowcast.worker")


class TriggerWarnings:
    """Warn once of the triggers of each table."""

    def __init__(self, replica: ReplicaDialect) -> None:
        self._replica = replica
        self._warned: set[TableName] = set()

    def warn_of_new(self, connection: Connection, names: Collection[TableName]) -> None:
        """Warn of the triggers of these tables, apart from tables with an earlier warning."""
        for table, triggers in self._replica.triggers(connection, names).items():
            if table not in self._warned:
                self._warned.add(table)
                _log.warning(
                    "the replica's table %s has triggers (%s). They may change rows, which then differ from the "
                    "primary's. Drop them, then compare the rows with rowcast verify",
                    table[1],
                    ", ".join(triggers),
                )
