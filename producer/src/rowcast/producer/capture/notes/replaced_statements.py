"""Know the tables of which a trigger or a rule may do something else in the place of an UPDATE or DELETE.

A BEFORE trigger of PostgreSQL that returns NULL keeps the row, and may change it: it marks the row as deleted, for
example. The statement then neither counts nor returns the row, so that the capture must read the rows before.
"""

from __future__ import annotations

from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.tables.captured import CapturedTable


class ReplacedStatements:
    """Know the tables of an engine, from the first question on."""

    def __init__(self) -> None:
        self._found: frozenset[tuple[str, str]] | None = None

    def may_replace(self, connection: Connection, table: CapturedTable, verb: str) -> bool:
        """Return whether the rows of an ``UPDATE`` or ``DELETE`` of the table may not be those that it returns."""
        if self._found is None:
            self._found = capture_dialect(connection.dialect).replaced_statements(connection)
        return (table.full_name, verb) in self._found
