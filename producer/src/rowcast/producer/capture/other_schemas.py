"""Find the tables of connections on which SQL text changes where the database looks for tables without a schema.

``SET search_path`` and ``USE`` do so, often for the tenants of an application. The change stays on the driver's
connection after the transaction, or ends with the transaction or a savepoint. Therefore such a connection is asked in
each transaction. What the capture does not see (cursors of the driver, listeners of the pool) fails at the commit: see
``CaptureDialect.placed_text``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from rowcast.producer.capture.notes.open_transactions import OpenTransactions
from rowcast.producer.database.dialects import capture_dialect, find_capture_dialect
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.errors import CaptureError

_CHANGED = "rowcast_schema_changed"


class OtherSchemas:
    """Know the connections of an engine on which SQL text may have changed the schema."""

    def __init__(self, transactions: OpenTransactions) -> None:
        self._transactions = transactions
        self.has_any = False
        """Whether there ever was such a connection. Otherwise no statement has anything to ask."""

    def note_text(self, connection: Connection, sql: str, parameters: Any) -> None:
        """Note SQL text before it is executed."""
        dialect = find_capture_dialect(connection.dialect)
        if dialect is None or not dialect.may_change_schema(sql, parameters):
            return
        self.has_any = True
        connection.info[_CHANGED] = True
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """Ask the database again in this transaction."""
        notes = self._transactions.get(connection)
        if notes is not None:
            notes.schemas = None

    def may_be_changed(self, connection: Connection) -> bool:
        """Return whether SQL text may have changed the schema on this connection."""
        return self.has_any and _CHANGED in connection.info

    def schema_of(self, connection: Connection, name: str) -> str:
        """Return the schema in which the database finds the table now.

        Raises CaptureError if the database does not find the outbox then.
        """
        notes = self._transactions.get_or_create(connection)
        if notes.schemas is None:
            notes.schemas = {}
        schema = notes.schemas.get(name)
        if schema is None:
            found, has_outbox = capture_dialect(connection.dialect).schema_of(connection, name)
            default = default_schema(connection.dialect)
            # A table that is not found fails by itself.
            schema = found or default
            if schema != default and not has_outbox:
                raise CaptureError(
                    f"{schema}.{name} is captured, but the connection does not find the table rowcast_outbox, because "
                    "SQL text has changed the search path or the database. On PostgreSQL, keep the schema of the "
                    "outbox at the end of the search path. Or name the schema by schema_translate_map or "
                    "Table(schema=…)."
                )
            notes.schemas[name] = schema
        return schema
