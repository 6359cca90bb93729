"""Read before images: the images of rows just before a statement changes them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.row_locks import KEYS_PER_STATEMENT, BeforeImages, Key, has_key_in, read_and_lock
from rowcast.producer.outbox.line_writer import before_member
from rowcast.producer.tables.captured import CapturedTable


def read_before_images(connection: Connection, table: CapturedTable, keys: Sequence[Key]) -> BeforeImages:
    """Lock the existing rows of ``keys``, and return the images by key."""
    found: dict[Key, str] = {}
    for start in range(0, len(keys), KEYS_PER_STATEMENT):
        found |= _read(
            connection, table, has_key_in(table.stored_keys.columns, keys[start : start + KEYS_PER_STATEMENT])
        )
    for key in keys:
        # The database may store a key in another form than the application gives it: another case, or another type.
        if key not in found:
            for image in _read(connection, table, has_key_in(table.stored_keys.columns, [key])).values():
                found[key] = image
    return found


def _read(connection: Connection, table: CapturedTable, condition: ColumnElement[bool]) -> dict[Key, str]:
    capture_dialect(connection.dialect).ensure_functions(connection)
    image = capture_dialect(connection.dialect).under_fixed_settings(before_member(table), table.types.values())
    query = sa.select(*table.stored_keys.columns, image).where(condition)
    rows = read_and_lock(connection, query, table.table)
    return {row[:-1]: row[-1] for row in rows}
