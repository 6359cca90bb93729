"""Refuse statements on tables where row-level security may hide rows from the capture.

The statement and the capture see equal rows, but foreign key actions do not obey the policies, and a RETURNING of the
capture would need an additional policy. The role and its settings may change within a transaction. Therefore each
statement asks for the policies. The drain asks again if a row is missing.
"""

from __future__ import annotations

from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.errors import CaptureError


class RowSecurity:
    """Know the tables of an engine with row-level security, from the first statement on.

    All other tables cost no query.
    """

    def __init__(self) -> None:
        self._names: frozenset[str] | None = None

    def refuse_hidden(self, connection: Connection, table: CapturedTable) -> bool:
        """Raise CaptureError if policies may hide rows of the table from the current role.

        Return whether the table has row-level security.
        """
        dialect = capture_dialect(connection.dialect)
        if self._names is None:
            self._names = dialect.tables_with_row_security(connection)
        if table.full_name not in self._names:
            return False
        if dialect.hides_rows(connection, table.table):
            raise hidden_rows_error(table.full_name, "changed rows")
        return True


def hidden_rows_error(table: str, what: str) -> CaptureError:
    """Return the error for rows that row-level security may hide. ``what``: the hidden rows."""
    return CaptureError(
        f"row-level security of {table} is active for the current role and may hide {what} from the capture, so that "
        "the listeners cannot capture the table. Let triggers capture the table: rowcast triggers install "
        f"{table}. Or use a role for which the policies do not count, such as a role with BYPASSRLS."
    )
