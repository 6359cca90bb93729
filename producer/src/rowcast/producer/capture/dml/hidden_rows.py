"""Return rows to the capture alone. SQLAlchemy and the application see the result of their own statement.

The capture appends columns to the executed text, and takes the columns from the driver's cursor before SQLAlchemy makes
a result. At this moment SQLAlchemy calls ``post_exec`` of the execution context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from sqlalchemy.engine import CursorResult, Dialect
from sqlalchemy.engine.cursor import _NO_CURSOR_DML, FullyBufferedCursorFetchStrategy
from sqlalchemy.engine.interfaces import ExecuteStyle
from sqlalchemy.sql.elements import ColumnElement

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.row_locks import Key

Processor: TypeAlias = Callable[[Any], Any]


class HiddenColumns:
    """Take the last columns of the rows returned by a statement. SQLAlchemy sees only the columns before.

    ``context``: the execution context of a statement before its execution. ``columns``: the appended columns. After the
    execution, ``rows`` has the values of the appended columns as Python objects of SQLAlchemy's types.
    """

    def __init__(self, context: Any, columns: Sequence[ColumnElement[Any]]) -> None:
        self.rows: list[Key] = []
        self._context = context
        self._columns = columns
        if context.execute_style is ExecuteStyle.INSERTMANYVALUES:
            # SQLAlchemy executes several statements, and fetches the rows of each.
            self._fetch = context.fetchall_for_returning
            context.fetchall_for_returning = self._take_batch
        else:
            self._finish = context.post_exec
            context.post_exec = self._take

    def _take(self) -> None:
        context = self._context
        self._finish()
        cursor = context.cursor
        description = cursor.description
        if description is None:
            # MariaDB returns no columns if the condition is never true.
            return
        shown = len(description) - len(self._columns)
        is_counted = context.isupdate or context.isdelete or context.execution_options.get("preserve_rowcount")
        if shown and is_counted:
            # SQLAlchemy asks for the number before the rows are read. Some drivers count the rows while they are read.
            context._rowcount = cursor.rowcount
        returned = cursor.fetchall()
        if not shown and (is_counted or cursor.rowcount < 0):
            # A cursor that streams rows does not count the rows, nor does SQLAlchemy 2.0 with aiosqlite.
            context._rowcount = len(returned)
        rows = self._cut(description, shown, returned)
        context.cursor_fetch_strategy = (
            FullyBufferedCursorFetchStrategy(cursor, description[:shown], rows) if shown else _NO_CURSOR_DML
        )

    def _take_batch(self, cursor: Any) -> list[tuple[Any, ...]]:
        rows = self._fetch(cursor)
        description = cursor.description
        shown = len(description) - len(self._columns)
        # SQLAlchemy takes only the description from this strategy.
        self._context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor, description[:shown], ())
        return self._cut(description, shown, rows)

    def _cut(self, description: Sequence[Any], shown: int, rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Keep the hidden values of the rows, and return the shown values."""
        hidden = [row[shown:] for row in rows] if shown else rows
        self.rows += processed(hidden, processors(self._context.dialect, description[shown:], self._columns))
        return [tuple(row[:shown]) for row in rows] if shown else []


class RowsOneByOne:
    """Execute a statement for each parameter set in turn, and keep the rows of an appended RETURNING.

    Drivers also execute ``executemany`` set by set: on SQLite a failure keeps the earlier rows, and on PostgreSQL an
    upsert may update a row twice. SQLAlchemy sees neither rows nor a RETURNING. ``context``: the execution context of
    the statement before its execution.
    """

    def __init__(self, context: Any, columns: Sequence[ColumnElement[Any]], returning: str) -> None:
        self.rows: list[Key] = []
        self._context = context
        self._columns = columns
        self._returning = returning
        setattr(context, _ONE_BY_ONE, self)

    def execute(self, sql: str, parameter_sets: Sequence[Any]) -> None:
        """Execute the statement. Raises the driver's errors."""
        context = self._context
        # The statement's own cursor stays as the driver leaves it after many parameter sets.
        cursor = context.root_connection.connection.cursor()
        sql = f"{sql}\nRETURNING {self._returning}"
        try:
            if context.dialect.driver == "psycopg" and not context.dialect.is_async:
                # It sends all sets at once.
                cursor.executemany(sql, parameter_sets, returning=True)
                self._fetch(cursor)
                while cursor.nextset():
                    self._fetch(cursor)
            else:
                for parameters in parameter_sets:
                    cursor.execute(sql, parameters)
                    self._fetch(cursor)
        finally:
            cursor.close()
        keeps_rowcount = capture_dialect(context.dialect).keeps_rowcount
        if keeps_rowcount or context.execution_options.get("preserve_rowcount"):
            context._rowcount = len(self.rows)

    def _fetch(self, cursor: Any) -> None:
        rows = cursor.fetchall()
        if rows:
            self.rows += processed(rows, processors(self._context.dialect, cursor.description, self._columns))


_ONE_BY_ONE = "_rowcast_one_by_one"


def execute_one_by_one(_cursor: Any, sql: str, parameter_sets: Any, context: Any) -> bool:
    """Listen to ``do_executemany``: execute the statement in place of the driver, if ``RowsOneByOne`` waits for it."""
    rows: RowsOneByOne | None = getattr(context, _ONE_BY_ONE, None)
    if rows is not None:
        rows.execute(sql, parameter_sets)
    return rows is not None


def processors(
    dialect: Dialect, description: Sequence[Any], columns: Sequence[ColumnElement[Any]]
) -> list[Processor | None]:
    """Return a result processor, or None if not needed, for each column. ``description``: of the driver's cursor."""
    return [
        column.type._cached_result_processor(dialect, described and described[1])
        for column, described in zip(columns, description, strict=True)
    ]


def processed(rows: Sequence[Sequence[Any]], processors: Sequence[Processor | None]) -> list[Key]:
    """Convert the driver's values to the values known to the application."""
    if not any(processors):
        return list(map(tuple, rows))
    return [
        tuple([v if process is None else process(v) for v, process in zip(row, processors, strict=True)])
        for row in rows
    ]


def forget_returning(result: CursorResult[Any], keys: Sequence[Key]) -> None:
    """Make the result of an INSERT with many parameter sets look like the result of one without RETURNING.

    ``keys``: the keys of the returned rows, which have been read.
    """
    context: Any = result.context
    context._is_explicit_returning = False
    result._soft_close()
    if context.rowcount >= 0:
        # Some drivers forget the number when the cursor is closed, and SQLAlchemy closes it.
        counts = capture_dialect(context.dialect).counts_many_sets(context.dialect)
        context._rowcount = len(keys) if counts else -1
    if getattr(context.cursor, "lastrowid", None) is not None:
        context.get_lastrowid = lambda: None
    result.cursor_strategy = _NO_CURSOR_DML
    result._metadata = result._no_result_metadata
    result._reset_memoizations()


def report_insert_id(context: Any, number: Callable[[], int | None]) -> None:
    """Let a result report a number that the driver does not report for an INSERT with RETURNING.

    ``context``: its execution context. ``number``: return the number after the execution.
    """
    context.get_lastrowid = number
