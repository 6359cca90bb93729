"""Copy new rows to PostgreSQL, in a third of the server's time of an INSERT … ON CONFLICT from JSON.

The row images become CSV without being taken apart in Python: a JSON array of numbers, texts and nulls is a line of CSV
but for its brackets. A backslash differs in CSV. Rows with a backslash are left to the caller, and columns whose values
need an expression. A COPY that meets an existing row is undone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from itertools import compress, repeat
from operator import contains, gt, itemgetter, not_
from typing import Any

import msgspec
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects.base import require_written
from rowcast.consumer.replica.dialects.postgresql_fields import ROUNDING, field_of
from rowcast.consumer.replica.dialects.replica_table import ReplicaTable
from rowcast.shared.tables.json_types import is_loosely_typed

_log = logging.getLogger("rowcast.worker")

COPIED_ROWS = 200
"""The number of new rows from which on a COPY saves more time than its savepoint takes."""

# Arrays are JSON, and a number of unknown type is to keep the digits of its text.
_NOT_COPIED = frozenset(("array", "native"))
_MOST_PAUSES = 1_024

_lines_of = msgspec.json.Encoder().encode_lines


class RowCopy:
    """Copy rows of one layout to one table."""

    def __init__(self, connection: Connection, table: ReplicaTable, layout: RowLayout) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        self._table = table
        self._decoders = layout.decoders
        self._names = table.writable_columns(layout)
        self._scales: dict[int, re.Pattern[str]] = {}
        self._is_possible = not is_loosely_typed(layout.shape.engine) and all(
            self._may_copy(place, layout, name) for place, name in enumerate(self._names)
        )
        # The names are for a statement with parameters, in which % is doubled.
        columns = ", ".join(map(quote, self._names))
        self._statement = (
            f"COPY {table.quoted} ({columns}) FROM STDIN WITH (FORMAT csv, NULL 'null', ENCODING 'UTF8')"
        ).replace("%%", "%")
        # After a COPY that met an existing row, the next attempts are left out, twice as many each time.
        self._pauses = self._left_out = 0

    def _may_copy(self, place: int, layout: RowLayout, name: str) -> bool:
        """Return whether the column's type reads the values itself. Note the digits of a decimal column."""
        portable, column = layout.shape.column(name).type, self._table.columns[name]
        if portable.name in _NOT_COPIED or field_of(portable, column.type, "") != (column.type, ""):
            return False
        rounding = ROUNDING.fullmatch(column.stored or column.type)
        if rounding is None:
            return True
        if rounding[1] is None or int(rounding[3]) < 0:
            return False
        # COPY would round in silence.
        self._scales[place] = re.compile(rf"(?:-?\d+(?:\.\d{{0,{rounding[3]}}})?(?:\n|\Z))*")
        return True

    def write(self, connection: Connection, images: Sequence[bytes], create: Sequence[bool]) -> Sequence[bytes]:
        """Copy the new rows, in the caller's transaction. Return the rows that are still to be written.

        ``create``: for each image, whether the row is new.
        """
        if not self._is_possible:
            return images
        if self._left_out < self._pauses:
            self._left_out += 1
            return images
        # New, and without a backslash.
        chosen = list(map(gt, create, map(contains, images, repeat(b"\\"))))
        rows = list(compress(images, chosen))
        text = self._csv(rows) if len(rows) >= COPIED_ROWS else None
        if text is None or not self._copy(connection, text, len(rows)):
            return images
        return list(compress(images, map(not_, chosen)))

    def _csv(self, images: Sequence[bytes]) -> bytes | None:
        """Return the rows as CSV, or None if a value needs a check by the server."""
        try:
            rows = self._decoders.row_values(images, self._names)
            for place, pattern in self._scales.items():
                if not pattern.fullmatch("\n".join(filter(None, map(itemgetter(place), rows)))):
                    return None
        except (ValueError, TypeError):
            return None
        # A JSON text contains no line feed. The brackets belong to the rows.
        return _lines_of(rows)[1:-2].replace(b"]\n[", b"\n")

    def _copy(self, connection: Connection, text: bytes, rows: int) -> bool:
        """Return whether all rows were new. If not, nothing is copied."""
        try:
            with connection.begin_nested():
                written = _send(connection, self._statement, text)
        except (exc.IntegrityError, exc.DataError, exc.ProgrammingError, exc.NotSupportedError) as error:
            self._left_out, self._pauses = 0, min(2 * self._pauses + 1, _MOST_PAUSES)
            _log.debug("table %s: new rows cannot be copied: %s", self._table.name, type(error.orig).__name__)
            return False
        self._pauses = 0
        require_written(self._table, written, rows)
        return True


def _send(connection: Connection, statement: str, text: bytes) -> int:
    """Execute a COPY. Return the number of rows. Raise SQLAlchemy's errors."""
    driver: Any = connection.connection.driver_connection
    errors = connection.dialect.loaded_dbapi.Error
    try:
        with driver.cursor() as cursor:
            with cursor.copy(statement) as copy:
                copy.write(text)
            return int(cursor.rowcount)
    except errors as error:
        raise exc.DBAPIError.instance(statement, None, error, errors, dialect=connection.dialect) from error
