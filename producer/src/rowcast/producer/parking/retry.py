"""Write the current rows of a parked transaction to the outbox.

The images of the parked transaction may be older than events published since. Therefore the rows are read again
(``current_rows``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import orjson
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.producer.outbox.current_rows import GoneError, Keys, SettingsOf, row_transaction, write_current_rows
from rowcast.producer.outbox.schema import OutboxTables
from rowcast.shared.database.driver_errors import is_transient
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.errors import DataError, RetriableError
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_store import newest_shape

if TYPE_CHECKING:
    from rowcast.producer.outbox.parked_rows import ParkedRow


def retry_parked(
    engine: Engine, tables: OutboxTables, settings_of: SettingsOf, tx: str, parked: Sequence[ParkedRow]
) -> int:
    """Retry a parked transaction in one transaction of the database. Return the number of rows.

    ``settings_of`` returns the settings of a table, with the salts of hashes. Raises DataError if a row cannot be named
    or read, and RetriableError if a row stays locked or if the transaction is no longer parked.
    """
    keys = _keys(parked)
    try:
        try:
            _write(engine, tables, settings_of, tx, len(parked), keys, whole_tables=False)
        except GoneError:
            _write(engine, tables, settings_of, tx, len(parked), keys, whole_tables=True)
    except exc.DBAPIError as error:
        reason = first_line(error)
        if is_transient(error):
            raise RetriableError(f"the rows of transaction {tx} cannot be locked now: {reason}. Try again.") from error
        raise DataError(f"the rows of transaction {tx} cannot be read: {reason}. {_OTHERWISE}") from error
    return sum(map(len, keys.values()))


_OTHERWISE = "Take a snapshot of its tables (rowcast snapshot TABLE --where …), then drop it"


def _keys(parked: Sequence[ParkedRow]) -> dict[str, Keys]:
    """Return the changed keys of each table, in the order of their first change. Raises DataError."""
    splitter = ChangeSplitter()
    keys: dict[str, Keys] = {}
    for row in parked:
        try:
            for head, key, *_ in splitter.split(row.changes):
                keys.setdefault(head.table, {})[key] = None
        except (DataError, AttributeError) as error:
            raise DataError(f"row {row.id} of rowcast_parked: {error}. Repair the row. Or: {_OTHERWISE}") from error
    return keys


def _write(
    engine: Engine, tables: OutboxTables, settings_of: SettingsOf, tx: str, rows: int, keys: Mapping[str, Keys],
    *, whole_tables: bool,
) -> None:  # fmt: skip
    with row_transaction(engine) as connection:
        parked = tables.parked
        if connection.execute(sa.delete(parked).where(parked.c.tx == tx)).rowcount != rows:
            raise RetriableError(f"transaction {tx} is being retried or dropped by another process. Try again.")
        current = [(_shape(connection, tables, name, of_table), of_table) for name, of_table in keys.items()]
        write_current_rows(connection, tables, settings_of, current, whole_tables=whole_tables)


def _shape(connection: Connection, tables: OutboxTables, name: str, keys: Keys) -> TableShape:
    shape = newest_shape(connection, name)
    if shape is None:
        raise DataError(f"rowcast_shape does not know the table {name}. {_OTHERWISE}")
    for key in keys:
        columns = tuple(orjson.loads(key))
        if set(columns) != set(shape.primary_key):
            raise DataError(
                f"the primary key of {name} was {', '.join(columns)}, and is {', '.join(shape.primary_key)} now. "
                f"{_OTHERWISE}"
            )
    return shape
