"""Read, retry and drop the parked transactions in ``rowcast_parked``."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rowcast.producer.outbox.parked_rows import ParkedRow, ParkedTransaction, parked_transactions
from rowcast.producer.outbox.schema import missing_parts, outbox_tables
from rowcast.producer.parking.retry import retry_parked
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import ConfigurationError


class ParkedTransactions:
    """Give access to the parked transactions of one primary.

    Raises UnreachableError if the primary does not answer, and ConfigurationError without a complete outbox.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine = open_engine(settings.require_primary().sqlalchemy_url, "primary", pooled=False)
        self._tables = outbox_tables(sa.MetaData())
        reach(self._engine, "primary")
        with self._engine.connect() as connection:
            for table in self._tables:
                if missing := missing_parts(table, connection):
                    raise ConfigurationError(f"in {self._engine.url} the table {table.name} {missing}.")

    def all(self) -> list[ParkedTransaction]:
        """Return all parked transactions, oldest first."""
        with self._engine.connect() as connection:
            return parked_transactions(connection)

    def rows(self, tx: str) -> list[ParkedRow]:
        """Return the outbox rows of a transaction. Raises ConfigurationError if it is not parked."""
        row = self._tables.parked.c
        found = sa.select(row.id, row.changes, row.context).where(row.tx == tx).order_by(row.id)
        with self._engine.connect() as connection:
            rows = [ParkedRow(*values) for values in connection.execute(found)]
        return rows or self._raise_unknown(tx)

    def retry(self, tx: str) -> int:
        """Write the current state of the transaction's rows to the outbox, and unpark the transaction.

        Return the number of rows. All rows become a new transaction. Raises ConfigurationError if the transaction is
        not parked, DataError if a row cannot be named or read, and RetriableError if a row is locked.
        """
        return retry_parked(self._engine, self._tables, self._settings.table, tx, self.rows(tx))

    def drop(self, transactions: Sequence[str]) -> None:
        """Delete parked transactions. Replicas never get the changes then.

        Raises ConfigurationError without deleting anything if a transaction is not parked.
        """
        row = self._tables.parked
        with self._engine.begin() as connection:
            for tx in transactions:
                if not connection.execute(sa.delete(row).where(row.c.tx == tx)).rowcount:
                    self._raise_unknown(tx)

    def _raise_unknown(self, tx: str) -> list[ParkedRow]:
        known = ", ".join(one.tx for one in self.all()) or "none"
        raise ConfigurationError(f"no transaction {tx!r} is parked (parked: {known}). Name a parked transaction.")

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()
