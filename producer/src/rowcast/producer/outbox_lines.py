"""The lines of an outbox row as SQL expressions, for the drain and for triggers alike.

``{"t":"schema.table","v":"<shape version>","op":"c|u|d","k":{key},"b":{old row},"a":{row}}`` and a line feed. ``d`` has
no ``a``; ``b`` is there only where the table asks for old rows and this one is known.

A line is empty text where nothing is to be told (a new row that the table's predicate leaves out): write nothing then.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement

from rowcast.producer.predicates import RowPredicate, stored
from rowcast.producer.predicates import Values as Values
from rowcast.producer.tables import CapturedTable
from rowcast.shared.images import Concatenation, RowImage
from rowcast.shared.shapes import TableShape


def row_line(
    table: CapturedTable, op: str, values: Values = stored, before: Values | ColumnElement[str] | None = None
) -> ColumnElement[str]:
    """A row that is there: ``op`` is ``c`` or ``u``. ``before``: the old row's values, or its member as ``old_member``
    makes it; written if the table asks for old rows.

    Where the table's predicate leaves the row out, it is a row that is gone, or nothing if it is new.
    """
    line = Concatenation(
        line_start(table, op),
        _key_image(table, values),
        *_before(table, before),
        ',"a":',
        row_image(table, values),
        "}\n",
    )
    if table.where is None:
        return line
    gone = sa.literal_column("''") if op == "c" else gone_line(table, values, before)
    return sa.case((RowPredicate(table, values), line), else_=gone)


def gone_line(
    table: CapturedTable, values: Values = stored, before: Values | ColumnElement[str] | None = None
) -> ColumnElement[str]:
    """A row that is gone; of ``values`` only the key's are asked for. ``before``: as for ``row_line``."""
    return Concatenation(line_start(table, "d"), _key_image(table, values), *_before(table, before), "}\n")


def row_image(table: CapturedTable, values: Values = stored) -> ColumnElement[str]:
    """The whole row as JSON text."""
    return RowImage([(str(c.name), table.leaving(c, values(c)), table.types[str(c.name)]) for c in table.columns])


def line_start(table: CapturedTable | TableShape, op: str) -> str:
    """What comes before the key."""
    return f'{{"t":{orjson.dumps(table.full_name).decode()},"v":"{table.version}","op":"{op}","k":'


def _key_image(table: CapturedTable, values: Values) -> RowImage:
    return RowImage([(str(c.name), values(c), table.types[str(c.name)]) for c in table.key_columns])


def _before(table: CapturedTable, before: Values | ColumnElement[str] | None) -> Sequence[ColumnElement[str]]:
    if before is None or not table.before:
        return ()
    return (before if isinstance(before, ColumnElement) else old_member(table, before),)


def old_member(table: CapturedTable, values: Values = stored) -> ColumnElement[str]:
    """``,"b":{old row}``, to stand behind the key; empty text if the table's predicate left the old row out."""
    member = Concatenation(',"b":', row_image(table, values))
    if table.where is None:
        return member
    return sa.case((RowPredicate(table, values), member), else_=sa.literal_column("''"))
