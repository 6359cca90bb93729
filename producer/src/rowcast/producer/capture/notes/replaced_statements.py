"""Know the tables where a trigger or a rule may replace an UPDATE, a DELETE or an INSERT.

A BEFORE trigger of PostgreSQL that returns NULL keeps the row, and may change the row, for example mark the row as
deleted. The statement then neither counts nor returns the row. Therefore the capture must read the rows before the
statement.

A BEFORE trigger can also write the row of an INSERT elsewhere and return NULL, for example into a child of the table
(INHERITS), or update a stored row with the key. A rule can do so too. Therefore the capture looks for the rows after
the statement.
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
        """Return whether the changed rows of a statement may differ from the returned rows.

        ``verb``: see ``CaptureDialect.replaced_statements``.
        """
        if self._found is None:
            self._found = capture_dialect(connection.dialect).replaced_statements(connection)
        return (table.full_name, verb) in self._found
