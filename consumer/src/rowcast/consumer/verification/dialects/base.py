"""The SQL that an engine needs for a comparison: digests, many rows in one value, estimates, moments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection, Dialect, Engine


class VerifyDialect(ABC):
    """The SQL of one engine."""

    def configure(self, engine: Engine) -> None:  # noqa: B027  # optional
        """Set up every new connection. Called once, before the first connection."""

    def are_alike(self, one: Dialect, other: Dialect) -> bool:
        """Return whether two databases of this engine write equal values as equal row images."""
        return one.name == other.name

    @abstractmethod
    def row_hash(self, text: ColumnElement[str]) -> ColumnElement[int]:
        """Return a hash of a text. Sums of hashes do not overflow within a page."""

    def key_hash(
        self, columns: Sequence[ColumnElement[Any]], integers: Sequence[ColumnElement[Any]]
    ) -> ColumnElement[int]:
        """Return a hash of a key. Different keys may have the same hash. ``integers``: the columns of integers."""
        return self.row_hash(sa.func.concat_ws(sa.literal_column("'|'"), *columns))

    def divided(self, number: ColumnElement[Any], divisor: int) -> ColumnElement[int]:
        """Return the integer quotient of an integer column."""
        return number.op("/")(sa.literal_column(str(divisor)))

    def lowest_bits(self, number: ColumnElement[int], mask: int) -> ColumnElement[int]:
        """Return the lowest bits of a hash."""
        return number.op("&")(sa.literal_column(str(mask)))

    @abstractmethod
    def joined(self, texts: ColumnElement[str]) -> ColumnElement[str]:
        """Return the aggregate of all texts with commas in between. The database may cut it."""

    @abstractmethod
    def estimate_rows(self, connection: Connection, schema: str | None, name: str) -> int:
        """Return about how many rows a table has."""

    def begin_statements(self, connection: Connection) -> Connection:
        """Return the connection with each statement as a transaction of its own."""
        return connection.execution_options(isolation_level="AUTOCOMMIT")

    def begin_snapshot(self, connection: Connection) -> Connection:
        """Return the connection in a transaction whose statements all see one moment."""
        return connection.execution_options(isolation_level="REPEATABLE READ")
