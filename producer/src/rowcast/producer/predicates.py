"""The condition for which a row of a table must be true to leave the primary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, exc
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.producer.tables import CapturedTable
from rowcast.shared.errors import ConfigurationError

Values = Callable[[sa.Column[Any]], ColumnElement[Any]]
"""Where a row's values come from: of a column of the table, the expression that has its value."""


def stored(column: sa.Column[Any]) -> ColumnElement[Any]:
    """The row of the table itself."""
    return column


class RowPredicate(ColumnElement[bool]):
    """The table's condition in its own words, with the row's values under the columns' names."""

    inherit_cache = False
    type = sa.types.Boolean()

    def __init__(self, table: CapturedTable, values: Values = stored) -> None:
        self.name = str(table.table.name)
        self.predicate: ColumnElement[bool] = sa.literal_column(f"({table.where})", sa.Boolean)
        # The row of the table itself has them under these names already.
        self.values = () if values is stored else [(str(c.name), values(c)) for c in table.table.columns]


@compiles(RowPredicate)
def _row_predicate(element: RowPredicate, compiler: SQLCompiler, **kw: Any) -> str:
    predicate = compiler.process(element.predicate, **kw)
    if not element.values:
        return predicate
    quote = compiler.preparer.quote
    row = ", ".join(f"{compiler.process(value, **kw)} AS {quote(name)}" for name, value in element.values)
    return f"(SELECT {predicate} FROM (SELECT {row}) AS {quote(element.name)})"


def check_predicate(connection: Connection, table: CapturedTable) -> None:
    """Raises ConfigurationError, naming the table, if the database does not take its condition; on some engines the
    transaction is of no use then."""
    if table.where is None:
        return
    try:
        connection.execute(
            sa.select(sa.literal_column("1")).select_from(table.table).where(RowPredicate(table)).limit(0)
        )
    except (exc.ProgrammingError, exc.OperationalError, exc.DataError) as error:
        if error.connection_invalidated:
            raise
        raise ConfigurationError(
            f"the database does not take the condition of table {table.full_name}, where = {table.where!r}: "
            f"{str(error.orig).strip().splitlines()[0]}. It is SQL over the table's columns."
        ) from error
