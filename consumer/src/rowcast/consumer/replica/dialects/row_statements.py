"""Write rows by a statement for each table and layout, with a parameter set for each row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from sqlalchemy.engine import Connection

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects.base import PositionRow, ReplicaDialect, require_updated, require_written
from rowcast.consumer.replica.dialects.replica_table import ReplicaTable
from rowcast.consumer.replica.dialects.value_converters import Converter, RowReader
from rowcast.shared.tables.shape import PortableType

Statement = tuple[str, Sequence[str]]
"""SQL for a single row, and the names of the columns that are its parameters."""

_Prepared = tuple[str, RowReader]


class RowStatementReplica(ReplicaDialect):
    """Write to an engine with many parameter sets in one call of the driver. Keep the statements."""

    counts_written_rows: ClassVar[bool] = False
    """The engine counts each row once that an upsert has written."""
    write_position: ClassVar[str]
    """The statement that inserts or updates a row of ``rowcast_position``."""

    def __init__(self) -> None:
        self._upserts: dict[tuple[ReplicaTable, RowLayout], _Prepared] = {}
        self._updates: dict[tuple[ReplicaTable, RowLayout], _Prepared] = {}
        self._deletes: dict[tuple[ReplicaTable, RowLayout], _Prepared] = {}

    def forget_tables(self) -> None:
        """Forget the statements of all tables."""
        self._upserts.clear()
        self._updates.clear()
        self._deletes.clear()

    @abstractmethod
    def converter(self, portable: PortableType, column_type: str, source_engine: str) -> Converter | None:
        """Return the converter for a column of this type, or None if the JSON value is the stored value."""

    @abstractmethod
    def upsert_statement(self, connection: Connection, table: ReplicaTable, layout: RowLayout) -> Statement:
        """Return the statement that writes a row by primary key."""

    @abstractmethod
    def delete_statement(self, connection: Connection, table: ReplicaTable, layout: RowLayout) -> Statement:
        """Return the statement that deletes a row by primary key."""

    def key_values(self, table: ReplicaTable, layout: RowLayout, keys: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        """Return the driver's values for keys."""
        return self._reader(table, layout, table.key).rows(keys)

    def upsert(
        self, connection: Connection, table: ReplicaTable, layout: RowLayout, images: Sequence[bytes],
        create: Sequence[bool] = (),
    ) -> None:  # fmt: skip
        """Write rows by primary key, in one call of the driver."""
        written = self._execute(self._upserts, self.upsert_statement, connection, table, layout, images)
        if self.counts_written_rows and len(table.writable_columns(layout)) > len(table.key):
            # ON CONFLICT DO NOTHING does not count rows that exist.
            require_written(table, written, len(images))

    def update(self, connection: Connection, table: ReplicaTable, layout: RowLayout, images: Sequence[bytes]) -> None:
        """Write the columns of the layout to existing rows, in one call of the driver."""
        if len(table.writable_columns(layout)) > len(table.key):
            written = self._execute(self._updates, _update_statement, connection, table, layout, images)
            require_updated(table, layout, written, len(images))

    def delete(self, connection: Connection, table: ReplicaTable, layout: RowLayout, keys: Sequence[bytes]) -> None:
        """Delete rows by primary key, in one call of the driver."""
        self._execute(self._deletes, self.delete_statement, connection, table, layout, keys)

    def _execute(
        self,
        prepared: dict[tuple[ReplicaTable, RowLayout], _Prepared],
        make: Callable[[Connection, ReplicaTable, RowLayout], Statement],
        connection: Connection,
        table: ReplicaTable,
        layout: RowLayout,
        rows: Sequence[bytes],
    ) -> int:
        """Execute the prepared statement for the rows. Return the number of rows that the driver counts.

        ``make`` gives the statement at the first call.
        """
        if (table, layout) not in prepared:
            sql, names = make(connection, table, layout)
            prepared[table, layout] = sql, self._reader(table, layout, names)
        sql, reader = prepared[table, layout]
        parameters = list(reader.rows(rows))
        self.check_rows(connection, sql, rows, parameters)
        return connection.exec_driver_sql(sql, parameters).rowcount

    def check_rows(  # optional
        self, connection: Connection, sql: str, documents: Sequence[bytes], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Raise ValueError if a row would make a statement that the server refuses."""

    def write_positions(self, connection: Connection, rows: Sequence[PositionRow]) -> None:
        """Insert or update rows of ``rowcast_position``, in one call of the driver."""
        connection.exec_driver_sql(self.write_position, list(rows))

    def _reader(self, table: ReplicaTable, layout: RowLayout, names: Sequence[str]) -> RowReader:
        shape = layout.shape
        # A dictionary, because a table may have thousands of columns.
        types = {column.name: column.type for column in shape.columns}
        return RowReader([(n, self.converter(types[n], table.columns[n].type, shape.engine)) for n in names])


def _update_statement(connection: Connection, table: ReplicaTable, layout: RowLayout) -> Statement:
    """Return an UPDATE of a single row. MySQL's drivers count the rows found, as SQLAlchemy sets them up."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    names = [name for name in table.writable_columns(layout) if name not in table.key]
    changes = ", ".join(f"{quote(name)} = {mark}" for name in names)
    where = " AND ".join(f"{quote(name)} = {mark}" for name in table.key)
    return f"UPDATE {table.quoted} SET {changes} WHERE {where}", [*names, *table.key]
