"""Send rows of the primary again, for ``rowcast verify --repair``.

The rows go through the outbox and the topics as a transaction of the application would. So they reach every replica in
the order of all other changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Engine

from rowcast.producer.outbox.current_rows import GoneError, Keys, RowCounts, row_transaction, write_current_rows
from rowcast.producer.outbox.schema import OutboxTables, missing_parts, outbox_tables
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.driver_errors import is_transient
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import ConfigurationError, DataError, RetriableError
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_store import newest_shape

_KEYS_PER_TRANSACTION = 1_000
"""The rows of a transaction stay locked until it ends."""

_Rows = tuple[str, Sequence[bytes]]


def send_rows(settings: Settings, rows: Sequence[_Rows]) -> tuple[int, int]:
    """Write the present state of rows to the outbox. Return the numbers of sent rows and of sent deletes.

    ``rows``: the full name of a table, and compact JSON of primary keys. The order is kept. A key without a row becomes
    a delete. Raises UnreachableError, ConfigurationError, DataError if a row cannot be read, and RetriableError if a
    row stays locked.
    """
    engine = open_engine(settings.require_primary().sqlalchemy_url, "primary", pooled=False)
    tables = outbox_tables(sa.MetaData())
    try:
        reach(engine, "primary")
        _require_outbox(engine, tables)
        sent = [_send(engine, tables, settings, batch) for batch in _batches(rows)]
    except exc.DBAPIError as error:
        if is_transient(error):
            reason = first_line(error)
            raise RetriableError(f"rows of the primary cannot be locked now: {reason}. Try again.") from error
        raise DataError(
            f"rows of the primary cannot be read: {first_line(error)}. Check that the user of [primary] may lock them, "
            "or take a snapshot of the tables: rowcast snapshot TABLE"
        ) from error
    finally:
        engine.dispose()
    return sum(counts.rows for counts in sent), sum(counts.deletes for counts in sent)


def _require_outbox(engine: Engine, tables: OutboxTables) -> None:
    with engine.connect() as connection:
        if missing := missing_parts(tables.outbox, connection):
            raise ConfigurationError(f"in {engine.url} the table {tables.outbox.name} {missing}.")


def _batches(rows: Sequence[_Rows]) -> Iterator[list[_Rows]]:
    """Yield the rows in batches, each for a transaction."""
    batch: list[_Rows] = []
    left = _KEYS_PER_TRANSACTION
    for table, keys in rows:
        start = 0
        while start < len(keys):
            some = keys[start : start + left]
            batch.append((table, some))
            start += len(some)
            left -= len(some)
            if not left:
                yield batch
                batch, left = [], _KEYS_PER_TRANSACTION
    if batch:
        yield batch


def _send(engine: Engine, tables: OutboxTables, settings: Settings, batch: Sequence[_Rows]) -> RowCounts:
    try:
        return _write(engine, tables, settings, batch, whole_tables=False)
    except GoneError:
        return _write(engine, tables, settings, batch, whole_tables=True)


def _write(
    engine: Engine, tables: OutboxTables, settings: Settings, batch: Sequence[_Rows], *, whole_tables: bool
) -> RowCounts:
    with row_transaction(engine) as connection:
        rows: list[tuple[TableShape, Keys]] = [(_shape(connection, name), dict.fromkeys(keys)) for name, keys in batch]
        return write_current_rows(connection, tables, settings.table, rows, whole_tables=whole_tables)


def _shape(connection: Connection, name: str) -> TableShape:
    shape = newest_shape(connection, name)
    if shape is None:
        raise DataError(f"rowcast_shape does not know the table {name} any more. Compare again.")
    return shape
