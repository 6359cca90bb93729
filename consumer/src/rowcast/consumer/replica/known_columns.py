"""The columns of the replica's tables while the tables are prepared, read from the database once."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy.engine import Connection

from rowcast.consumer.replica.dialects import ReplicaColumn, ReplicaDialect, TableName


class KnownColumns:
    """Know the columns of tables, until a statement changes a table. ``names``: the tables to read."""

    def __init__(self, replica: ReplicaDialect, connection: Connection, names: Collection[TableName]) -> None:
        self._replica = replica
        self._connection = connection
        self._columns = replica.read_all_columns(connection, names)

    def of(self, name: TableName) -> Mapping[str, ReplicaColumn]:
        """Return the columns by name, or an empty mapping if the table does not exist."""
        if name not in self._columns:
            self._columns[name] = self._replica.read_columns(self._connection, *name)
        return self._columns[name]

    def forget(self, name: TableName) -> None:
        """Read the table's columns again when they are needed, because a statement has changed the table."""
        self._columns.pop(name, None)
