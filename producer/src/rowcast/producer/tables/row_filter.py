"""Compile and check row filters: the SQL conditions that choose which rows of a table are published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.producer.database.dialects.statement_options import UNTRANSLATED
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.errors import ConfigurationError

RowValues = Callable[[sa.Column[Any]], ColumnElement[Any]]
"""Maps a column of the table to the expression that has the row's value."""


def stored_value(column: sa.Column[Any]) -> ColumnElement[Any]:
    """Return the column itself: the value of the stored row."""
    return column


class RowFilter(ColumnElement[bool]):
    """Evaluate the row filter of a table, with the row's values under the names of the columns."""

    inherit_cache = False
    type = sa.types.Boolean()

    def __init__(self, table: CapturedTable, values: RowValues = stored_value) -> None:
        self.name = str(table.table.name)
        self.predicate: ColumnElement[bool] = sa.literal_column(f"({table.where})", sa.Boolean)
        # A stored row has the values under the names of the columns already.
        self.values = () if values is stored_value else [(str(c.name), values(c)) for c in table.table.columns]


@compiles(RowFilter)
def _row_predicate(element: RowFilter, compiler: SQLCompiler, **kw: Any) -> str:
    predicate = compiler.process(element.predicate, **kw)
    if not element.values:
        return predicate
    quote = compiler.preparer.quote
    row = ", ".join(f"{compiler.process(value, **kw)} AS {quote(name)}" for name, value in element.values)
    return f"(SELECT {predicate} FROM (SELECT {row}) AS {quote(element.name)})"


def check_row_filter(connection: Connection, table: CapturedTable) -> None:
    """Check that the database accepts the row filter of the table.

    Raises ConfigurationError, naming the table, if it does not. On some engines the transaction must be rolled back
    then.
    """
    if table.where is None:
        return
    try:
        none: sa.Select[Any] = sa.select(sa.literal_column("1")).select_from(table.table).limit(0)
        connection.execute(none.where(RowFilter(table)), execution_options=UNTRANSLATED)
    except (exc.ProgrammingError, exc.OperationalError, exc.DataError) as error:
        if error.connection_invalidated:
            raise
        raise ConfigurationError(
            f"the database rejects the row filter of table {table.full_name}, where = {table.where!r}: "
            f"{first_line(error)}. It is SQL over the table's columns."
        ) from error
