"""Read the execution option ``rowcast``, a row hint: the application itself names the rows that a statement changes.

``execution_options(rowcast="ignore")`` leaves the rows out of the capture. ``rowcast={Order: [1, 2], items: [(1, 7)]}``
names the rows by primary key, for each mapped class or Table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Row

from rowcast.producer.capture.dml.before_images import read_before_images
from rowcast.producer.capture.notes.transaction_notes import Touch, TransactionNotes
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT, UNTRANSLATED
from rowcast.producer.database.row_locks import Key, lock_rows
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.errors import ConfigurationError

ROWCAST_OPTION = "rowcast"
IGNORE = "ignore"

MOST_ROWS = 100_000
"""The rows of a table whose TRUNCATE is captured, because all keys are in memory."""

RowHint = Mapping[sa.Table, tuple[Key, ...]]


def row_hint_of(value: Any) -> RowHint:
    """Return the keys in the option's value by table. A class with joined inheritance stands for all its tables.

    Raises ConfigurationError for a value of another form.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"execution_options(rowcast={value!r}): it must be 'ignore', or a dict from table or mapped class to a "
            "list of primary keys."
        )
    named: dict[sa.Table, tuple[Key, ...]] = {}
    for what, keys in value.items():
        for table in _tables(what):
            named[table] = named.get(table, ()) + _keys(table, keys)
    return named


def apply_row_hint(connection: Connection, table: CapturedTable, keys: Sequence[Key], notes: TransactionNotes) -> None:
    """Note rows to be inserted, updated or deleted by the next statement. Only the keys are known.

    The existing rows are locked now. Therefore a locked row that is gone at commit was deleted by this transaction. A
    missing row becomes an event only if the row exists at commit and the drain can lock the row.
    """
    if table.has_before_images:
        notes.remember_before_images(table, read_before_images(connection, table, keys))
    notes.note(
        table, Touch.DELETE, lock_rows(connection, table.key_columns, table.stored_keys.columns, keys), locked=True
    )
    notes.note(table, Touch.NAMED, keys, locked=False)


def note_all_rows(connection: Connection, table: CapturedTable, notes: TransactionNotes) -> bool:
    """Note all rows of a locked table to be deleted by the next statement.

    Return False without noting any if the table has more rows than a statement may note.
    """
    columns = table.stored_keys.columns
    query = sa.select(*columns).select_from(table.key_columns[0].table).limit(MOST_ROWS + 1)
    rows = connection.execute(query, execution_options={**UNTRANSLATED, **INTERNAL_STATEMENT})
    keys: list[Key] = [tuple(row) for row in rows]
    if len(keys) > MOST_ROWS:
        return False
    if table.has_before_images:
        notes.remember_before_images(table, read_before_images(connection, table, keys))
    notes.note(table, Touch.DELETE, keys, locked=True)
    return True


def _tables(what: Any) -> Iterable[sa.Table]:
    if isinstance(what, sa.Table):
        return [what]
    try:
        tables: Iterable[sa.Table] = sa.inspect(what).tables
    except (exc.NoInspectionAvailable, AttributeError):
        raise ConfigurationError(
            f"execution_options(rowcast={{{what!r}: …}}): {what!r} is neither a Table nor a mapped class."
        ) from None
    return tables


def _keys(table: sa.Table, keys: Any) -> tuple[Key, ...]:
    if not isinstance(keys, Iterable) or isinstance(keys, str | bytes | Mapping):
        raise ConfigurationError(
            f"execution_options(rowcast=…): the keys of {table.fullname} must be a list, not {keys!r}."
        )
    return tuple(_key(table, key) for key in keys)


def _key(table: sa.Table, key: Any) -> Key:
    found = tuple(key) if isinstance(key, tuple | list | Row) else (key,)
    names = [str(c.name) for c in table.primary_key.columns]
    if len(found) != len(names) or any(value is None for value in found):
        raise ConfigurationError(
            f"execution_options(rowcast=…): {key!r} is no key of {table.fullname}, whose key is ({', '.join(names)}). "
            "Give a value, or a tuple of values in this order."
        )
    return found
