"""Read and write ``rowcast_table``: the followed tables of a worker, with their shapes."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.replica.letter_rows import rename_letter_table
from rowcast.consumer.replica.worker_tables import ROWCAST_TABLE
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_document import parse_recorded_shape

_ROW = ROWCAST_TABLE.c


class TableRecord(NamedTuple):
    """The recorded shape of a table, and whether a worker created the table."""

    shape: TableShape
    created: bool

    def renamed(self, shape: TableShape) -> TableRecord:
        """Return the record under the name that ``shape`` has."""
        return TableRecord(self.shape.named_as(shape), self.created)


class TableRecords:
    """The rows of one source. Call every method with a connection in a transaction.

    ``first_lsn``: the first lsn of the snapshot to load new tables from, or 0.
    """

    def __init__(self, source: str, first_lsn: int = 0) -> None:
        self._source = source
        self._first_lsn = first_lsn
        self._is_own = _ROW.source == source

    def read(self, connection: Connection) -> dict[str, TableRecord]:
        """Return the records by ``schema.table``, sorted by name. Raise DataError for a damaged shape."""
        # Not first_lsn, because the tables of an earlier version may lack the column.
        wanted = sa.select(_ROW.table_name, _ROW.shape, _ROW.created)
        rows = connection.execute(wanted.where(self._is_own).order_by(_ROW.table_name))
        return {row.table_name: TableRecord(parse_recorded_shape(row.shape), bool(row.created)) for row in rows}

    def created_by_worker(self, connection: Connection) -> set[str]:
        """Return ``schema.table`` of the tables that a worker created."""
        rows = connection.execute(sa.select(_ROW.table_name).where(self._is_own, _ROW.created))
        return set(rows.scalars())

    def shapes(self, connection: Connection) -> list[TableShape]:
        """Return the shape of each recorded table, sorted by name. Raise DataError for a damaged shape."""
        return [record.shape for record in self.read(connection).values()]

    def first_lsns(self, connection: Connection) -> dict[str, int]:
        """Return the lsn before which the events of each recorded table are left out, by ``schema.table``."""
        rows = connection.execute(sa.select(_ROW.table_name, _ROW.first_lsn).where(self._is_own))
        return {row.table_name: row.first_lsn for row in rows}

    def add(self, connection: Connection, shape: TableShape, *, created: bool) -> None:
        """Write the record of a table."""
        connection.execute(sa.delete(ROWCAST_TABLE).where(self._is_row(shape.full_name)))
        connection.execute(
            sa.insert(ROWCAST_TABLE).values(
                source=self._source,
                table_name=shape.full_name,
                created=created,
                shape=_text(shape),
                first_lsn=self._first_lsn,
            )
        )

    def update(self, connection: Connection, shape: TableShape) -> None:
        """Write a changed shape."""
        connection.execute(sa.update(ROWCAST_TABLE).where(self._is_row(shape.full_name)).values(shape=_text(shape)))

    def rename(self, connection: Connection, former: str, record: TableRecord) -> None:
        """Give a record another name, and the letters of the table too. ``record``: with the present name."""
        values = {"table_name": record.shape.full_name, "shape": _text(record.shape)}
        connection.execute(sa.update(ROWCAST_TABLE).where(self._is_row(former)).values(values))
        rename_letter_table(connection, self._source, former, record.shape.full_name)

    def _is_row(self, full_name: str) -> sa.ColumnElement[bool]:
        return self._is_own & (_ROW.table_name == full_name)


def _text(shape: TableShape) -> str:
    return shape.to_json().decode()
