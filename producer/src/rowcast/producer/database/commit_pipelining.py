"""Send a statement and COMMIT to PostgreSQL in one round trip, because the capture must not slow down a commit.

This module only sends statements after psycopg has prepared them. psycopg keeps track of the prepared statements on the
server, for example after ``DISCARD ALL``, and with a connection pooler prepares nothing. All remaining statements are
sent in the usual way, and psycopg prepares them then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

from rowcast.shared.database.pipelines import pipelined_driver, send_at_once

try:
    from psycopg._queries import PostgresQuery
    from psycopg.adapt import PyFormat, Transformer
except ImportError:
    # Without psycopg no driver can send several statements at once.
    pass

if TYPE_CHECKING:
    from psycopg import Connection as Driver
    from psycopg.pq.abc import PGconn


class CommitPipeline:
    """Send one statement, in the driver's form, together with COMMIT."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._text = b""
        self._order: list[str] | None = None

    def commit_with(self, connection: Connection, values: Any) -> bool:
        """Execute the statement and commit in one round trip. ``values``: in the form of the driver.

        Return False without doing anything if more round trips are needed. Raises SQLAlchemy's errors. After an error
        the transaction is not committed, or the outcome is unknown.
        """
        driver = pipelined_driver(connection, in_transaction=True)
        prepared = getattr(getattr(driver, "_prepared", None), "_names", None)
        if driver is None or not prepared:
            return False
        if not self._text:
            self._convert(driver, values)
        transformer = Transformer(driver)
        ordered = values if self._order is None else [values[name] for name in self._order]
        parameters = transformer.dump_sequence(ordered, [PyFormat.AUTO] * len(ordered))
        name = prepared.get((self._text, transformer.types or ()))
        if name is None:
            return False

        def send(state: PGconn) -> None:
            state.send_query_prepared(name, parameters, param_formats=transformer.formats)
            state.send_query_params(b"COMMIT", None)

        send_at_once(connection, driver, [(self._sql, values), (None, None)], send)
        return True

    def _convert(self, driver: Driver[Any], values: Any) -> None:
        """Convert the statement as psycopg does, because psycopg finds prepared statements by the converted text."""
        query = PostgresQuery(Transformer(driver))
        query.convert(self._sql, values)
        self._text, self._order = query.query, query._order
