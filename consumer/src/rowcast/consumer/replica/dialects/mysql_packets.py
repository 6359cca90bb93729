"""Keep statements within ``max_allowed_packet``, because MariaDB and MySQL end the connection at a longer statement.

The worker could not distinguish the ended connection from a server that is restarted, and would try again for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from rowcast.shared.row_values import UnsuitableValueError

# PyMySQL's own limit of a statement with many rows.
_MAX_STATEMENT = 1_024_000
# A packet begins with the number of its command.
_COMMAND_BYTES = 1
# A key has at most 3,072 bytes. Each may need an escape, and a loose key is compared twice.
_MAX_KEY_BYTES = 4 * 3_072
# The longest text around the bytes of a value: quotes, a character set, a comma.
_BYTES_AROUND_VALUE = 20


class Packets:
    """Know the server's limit, and refuse the rows that exceed the limit."""

    def __init__(self) -> None:
        self._limit = _MAX_STATEMENT

    def set_up(self, connection: Any) -> None:
        """Read the limit, and let a new connection's cursors divide statements accordingly."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@max_allowed_packet")
            self._limit = cursor.fetchone()[0]
        limits = {"max_stmt_length": min(_MAX_STATEMENT, self._limit - _COMMAND_BYTES)}
        connection.cursorclass = type("Cursor", (connection.cursorclass,), limits)

    def keys_per_statement(self, most: int) -> int:
        """Return the number of keys that fit into a statement for certain, and at most ``most``."""
        return max(1, min(most, self._limit // _MAX_KEY_BYTES))

    def require_fitting(
        self, connection: Connection, sql: str, documents: Sequence[bytes], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Raise ValueError if the statement of a row is too long. ``documents``: the JSON of the rows."""
        for document, row in zip(documents, rows, strict=True):
            # A byte of JSON becomes two bytes at most.
            longest = 2 * len(document) + 2 * len(sql) + _BYTES_AROUND_VALUE * len(row)
            if longest < self._limit:
                continue
            with connection.connection.cursor() as cursor:  # type: ignore[attr-defined]
                length = len(cursor.mogrify(sql, row).encode()) + _COMMAND_BYTES
            if length > self._limit:
                raise UnsuitableValueError(
                    f"the row takes {length} bytes in a statement, and max_allowed_packet of the server is "
                    f"{self._limit}. Raise max_allowed_packet above {length}, and start the worker again"
                )
