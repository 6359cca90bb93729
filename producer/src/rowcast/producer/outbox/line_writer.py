"""Make outbox lines as SQL expressions, for the drain and for triggers.

A line is ``{"t":"schema.table","v":"<shape version>","op":"c|u|d","k":{key},"b":{before image},"a":{row image}}`` and a
line feed. A line with op ``d`` has no ``a``. A line has ``b`` only if the table has before images and the image is
known.

The expression gives empty text if nothing is to be published, for example for a new row left out by the row filter.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement

from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.row_filter import RowFilter, stored_value
from rowcast.producer.tables.row_filter import RowValues as RowValues
from rowcast.shared.images import Concatenation, RowImage
from rowcast.shared.tables.shape import TableShape

NO_LINE = Concatenation("")
"""The text of no line. MariaDB may read a plain '' as NULL, in the SQL mode EMPTY_STRING_IS_NULL."""


def row_line(
    table: CapturedTable,
    op: str,
    values: RowValues = stored_value,
    before: RowValues | ColumnElement[str] | None = None,
) -> ColumnElement[str]:
    """Return the line of an existing row. ``op`` is ``c`` or ``u``.

    ``before`` gives the values of the old row, or the member from ``before_member``, and is written if the table has
    before images. If the row filter leaves the row out, the line is a delete, or empty for ``c``.
    """
    line = Concatenation(
        line_start(table, op),
        key_image(table, values),
        *_before(table, before),
        ',"a":',
        row_image(table, values),
        "}\n",
    )
    if table.where is None:
        return line
    gone = NO_LINE if op == "c" else gone_line(table, values, before)
    return sa.case((RowFilter(table, values), line), else_=gone)


def gone_line(
    table: CapturedTable, values: RowValues = stored_value, before: RowValues | ColumnElement[str] | None = None
) -> ColumnElement[str]:
    """Return the line of a deleted row. Only the key's ``values`` are used. ``before``: see ``row_line``."""
    return Concatenation(line_start(table, "d"), key_image(table, values), *_before(table, before), "}\n")


def row_image(table: CapturedTable, values: RowValues = stored_value) -> ColumnElement[str]:
    """Return the row image as JSON text."""
    return RowImage(
        [(str(c.name), table.published_value(c, values(c)), table.types[str(c.name)]) for c in table.columns]
    )


def line_start(table: CapturedTable | TableShape, op: str) -> str:
    """Return the text of a line up to the key."""
    return f'{{"t":{orjson.dumps(table.full_name).decode()},"v":"{table.version}","op":"{op}","k":'


def key_image(table: CapturedTable, values: RowValues = stored_value) -> RowImage:
    """Return the key as JSON text."""
    return RowImage([(str(c.name), values(c), table.types[str(c.name)]) for c in table.key_columns])


def _before(table: CapturedTable, before: RowValues | ColumnElement[str] | None) -> Sequence[ColumnElement[str]]:
    if before is None or not table.has_before_images:
        return ()
    return (before if isinstance(before, ColumnElement) else before_member(table, before),)


def before_member(table: CapturedTable, values: RowValues = stored_value) -> ColumnElement[str]:
    """Return ``,"b":{before image}``, which follows the key, or empty text if the row filter left the old row out."""
    member = Concatenation(',"b":', row_image(table, values))
    if table.where is None:
        return member
    return sa.case((RowFilter(table, values), member), else_=NO_LINE)
