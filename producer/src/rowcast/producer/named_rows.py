"""The execution option ``rowcast``: what the application itself says about the rows that a statement changes.

``execution_options(rowcast="ignore")``: they are not to be captured. ``rowcast={Order: [1, 2], items: [(1, 7)]}``, by
mapped class or Table: these are the rows, by primary key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Row

from rowcast.producer.locked_reads import lock_named
from rowcast.producer.old_rows import old_rows
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import Key, Touch, Touched
from rowcast.shared.errors import ConfigurationError

OPTION = "rowcast"
IGNORE = "ignore"

NamedRows = Mapping[sa.Table, tuple[Key, ...]]


def named_rows(value: Any) -> NamedRows:
    """The option's value, by table; of a class with joined inheritance every table.

    Raises ConfigurationError, with what is allowed, for any other value.
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


def touch(connection: Connection, table: CapturedTable, keys: Sequence[Key], notes: Touched) -> None:
    """Notes rows that the statement about to run changes, inserts or deletes: the keys are all that is known of it.

    Those that are there are locked now. Then one that is gone at commit was deleted by this transaction, and one that
    was not there is told of only if it is there, and locked, at commit.
    """
    if table.before:
        notes.see(table, old_rows(connection, table, keys))
    notes.note(table, Touch.UPDATE, lock_named(connection, table.key_columns, keys), locked=True)
    notes.note(table, Touch.INSERT, keys, locked=False)


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
            f"execution_options(rowcast=…): {key!r} is no key of {table.fullname}, whose key is ({', '.join(names)}); "
            "give a value, or a tuple of values in this order."
        )
    return found
