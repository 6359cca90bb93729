"""Transactions that the relay could not publish, and has parked: ``rowcast_parked``, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rowcast.producer.outbox import missing_of, outbox_tables
from rowcast.producer.read_again import read_again
from rowcast.shared.config import Settings
from rowcast.shared.databases import open_engine, reach
from rowcast.shared.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class ParkedTransaction:
    """``rows`` of the outbox; ``ts_ms``: when it was committed, ``parked_ms``: when it was parked, milliseconds since
    1970 by the database's clock."""

    tx: str
    rows: int
    ts_ms: int
    parked_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """One of its outbox rows, as it was there."""

    id: int
    changes: str
    context: str | None


def parked_transactions(connection: Connection) -> list[ParkedTransaction]:
    """All of them, in the order in which they were parked."""
    row = outbox_tables(sa.MetaData()).parked.c
    columns = row.tx, sa.func.count(), sa.func.min(row.ts_ms), sa.func.max(row.parked_ms), sa.func.min(row.reason)
    found = connection.execute(sa.select(*columns).group_by(row.tx).order_by(sa.func.min(row.parked_ms), row.tx))
    return [ParkedTransaction(*transaction) for transaction in found]


class Parked:
    """Those of one primary, as its user looks at them. Raises UnreachableError, ConfigurationError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine = open_engine(settings.require_primary().sqlalchemy_url, "primary", pooled=False)
        self._tables = outbox_tables(sa.MetaData())
        reach(self._engine, "primary")
        with self._engine.connect() as connection:
            for table in self._tables:
                if missing := missing_of(table, connection):
                    raise ConfigurationError(f"in {self._engine.url} the table {table.name} {missing}.")

    def all(self) -> list[ParkedTransaction]:
        """As ``parked_transactions``."""
        with self._engine.connect() as connection:
            return parked_transactions(connection)

    def rows(self, tx: str) -> list[ParkedRow]:
        """One transaction's. Raises ConfigurationError if it is not parked."""
        row = self._tables.parked.c
        found = sa.select(row.id, row.changes, row.context).where(row.tx == tx).order_by(row.id)
        with self._engine.connect() as connection:
            rows = [ParkedRow(*values) for values in connection.execute(found)]
        return rows or self._raise_unknown(tx)

    def retry(self, tx: str) -> int:
        """Writes the rows that this transaction changed, as they are now, to the outbox, as one transaction, and takes
        it out of the parked ones; gives how many rows.

        Raises ConfigurationError if it is not parked, DataError if its rows cannot be told or read, RetriableError if
        they are locked.
        """
        return read_again(self._engine, self._tables, self._settings.table, tx, self.rows(tx))

    def drop(self, transactions: Sequence[str]) -> None:
        """Forgets them: the replicas lack their changes. Raises ConfigurationError, and does nothing, if one is not
        parked."""
        row = self._tables.parked
        with self._engine.begin() as connection:
            for tx in transactions:
                if not connection.execute(sa.delete(row).where(row.c.tx == tx)).rowcount:
                    self._raise_unknown(tx)

    def _raise_unknown(self, tx: str) -> list[ParkedRow]:
        known = ", ".join(one.tx for one in self.all()) or "none"
        raise ConfigurationError(f"no transaction {tx!r} is parked (parked: {known}).")

    def close(self) -> None:
        self._engine.dispose()
