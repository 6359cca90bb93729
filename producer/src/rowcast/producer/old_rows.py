"""Rows as they are before a statement changes them, for the tables whose events carry them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection

from rowcast.producer.locked_reads import CHUNK, is_one_of, read_locked
from rowcast.producer.outbox_lines import old_member
from rowcast.producer.sqlite_functions import ensure_functions
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import Key, OldRows


def old_rows(connection: Connection, table: CapturedTable, keys: Sequence[Key]) -> OldRows:
    """Those of the rows that are there, locked from now on."""
    found: dict[Key, str] = {}
    for start in range(0, len(keys), CHUNK):
        found |= _matching(connection, table, is_one_of(table.key_columns, keys[start : start + CHUNK]))
    for key in keys:
        # A key that is stored in another form than the application gives it: another case, or another type.
        if key not in found:
            for member in _matching(connection, table, is_one_of(table.key_columns, [key])).values():
                found[key] = member
    return found


def _matching(connection: Connection, table: CapturedTable, condition: ColumnElement[bool]) -> dict[Key, str]:
    ensure_functions(connection)
    query = sa.select(*table.key_columns, old_member(table)).where(condition)
    rows = read_locked(connection, query, table.table)
    return {row[:-1]: row[-1] for row in rows}
