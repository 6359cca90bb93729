"""Comparisons on SQLite."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, event
from sqlalchemy.engine import Connection, Engine

from rowcast.consumer.verification.dialects.base import VerifyDialect

_ROW_HASH, _KEY_HASH = "rowcast_row_hash", "rowcast_key_hash"
# The sum of the hashes of a page stays below 2^63, where SQLite's sums end.
_MASK = 2**43 - 1


class SQLiteVerify(VerifyDialect):
    """The SQL of SQLite."""

    def configure(self, engine: Engine) -> None:
        """Register the hashes."""

        @event.listens_for(engine, "connect")
        def register_hashes(connection: Any, _record: object) -> None:
            # Python's hash is equal for equal values within a process, and both databases are read in this process.
            connection.create_function(_ROW_HASH, 1, lambda text: hash(text) & _MASK, deterministic=True)
            connection.create_function(_KEY_HASH, -1, lambda *key: hash(key) & _MASK, deterministic=True)

    def row_hash(self, text: ColumnElement[str]) -> ColumnElement[int]:
        """Return a hash of 43 bits."""
        hash_: ColumnElement[int] = getattr(sa.func, _ROW_HASH)(text)
        return hash_

    def key_hash(
        self, columns: Sequence[ColumnElement[Any]], integers: Sequence[ColumnElement[Any]]
    ) -> ColumnElement[int]:
        """Return the sum of the integers, because SQLite has no hash, and a call of Python takes long for each row.

        Without integers, return a hash of 43 bits.
        """
        if integers:
            return functools.reduce(operator.add, integers)
        hash_: ColumnElement[int] = getattr(sa.func, _KEY_HASH)(*columns)
        return hash_

    def joined(self, texts: ColumnElement[str]) -> ColumnElement[str]:
        """Return the texts, up to 1 GB."""
        return sa.func.group_concat(texts, sa.literal_column("','"))

    def estimate_rows(self, connection: Connection, schema: str | None, name: str) -> int:
        """Return the number of rows, which SQLite counts fast."""
        table = sa.table(name, schema=schema)
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0

    def begin_statements(self, connection: Connection) -> Connection:
        """Return the connection. The driver begins a transaction only before a write."""
        return connection

    def begin_snapshot(self, connection: Connection) -> Connection:
        """Return the connection in a transaction."""
        connection.exec_driver_sql("BEGIN")
        return connection
