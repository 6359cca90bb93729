"""Write the SQL that turns the fields of a JSON document into the values of columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy.engine import Connection

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.dialects.replica_table import ReplicaTable
from rowcast.consumer.replica.dialects.value_converters import is_hex_uuid
from rowcast.shared.tables.shape import PortableType


def record_of(connection: Connection, table: ReplicaTable, layout: RowLayout, names: Sequence[str]) -> tuple[str, str]:
    """Return the record's definition, and the expressions for the columns' values.

    A field has the type of the column, because the type's input function is to read the text.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    fields, values = [], []
    for name in names:
        portable, found = layout.shape.column(name).type, table.columns[name]
        field_type, value = field_of(portable, found.type.replace("%", "%%"), f"r.{quote(name)}")
        if found.type == field_type and (exact := _exact_field(found.stored or found.type, value)):
            field_type, value = exact
        fields.append(f"{quote(name)} {field_type}")
        values.append(value)
    return ", ".join(fields), ", ".join(values)


ROUNDING = re.compile(
    r"(numeric)\((\d+),(-?\d+)\)|(timestamp|time)\(([0-5])\)( with(?:out)? time zone)|(interval)\(([0-5])\)"
)
"""The types that round a value with more digits: numeric (with precision and scale), times and intervals."""
# PostgreSQL has no expression that raises an error, besides the cast of an invalid text.
_REFUSAL = "rowcast: the value has more digits than the column "
REFUSED = re.compile(f'"({_REFUSAL}[^"]*)"')


def _exact_field(stored_type: str, field: str) -> tuple[str, str] | None:
    """Return a field's type and value for a column with silent rounding, so that the value raises an error.

    Return None for a column without rounding.
    """
    match = ROUNDING.fullmatch(stored_type)
    if match is None:
        return None
    exact = match[1] or match[7] or f"{match[4]}{match[6]}"
    rounded = f"round({field}, {match[3]})" if match[1] else f"{field}::{stored_type}"
    refusal = f"('{_REFUSAL}({stored_type})' || left({field}::text, 0))::{exact}"
    return exact, f"CASE WHEN {field} <> {rounded} THEN {refusal} ELSE {field} END"


# The column types with a different type for the field. A json field would keep the string around the document, instead
# of the document. The text of money has the decimal point of lc_monetary.
_FIELD_TYPES = {
    "json": "text",
    "jsonb": "text",
    "json[]": "text[]",
    "jsonb[]": "text[]",
    "money": "numeric",
    "money[]": "numeric[]",
}


def field_of(portable: PortableType, column_type: str, field: str) -> tuple[str, str]:
    """Return the type of a record's field, and the expression that turns the field into the column's value."""
    if portable.name == "bytes" and column_type == "bytea":
        return "text", f"decode({field}, 'base64')"
    if column_type in _FIELD_TYPES:
        return _FIELD_TYPES[column_type], f"{field}::{column_type}"
    if is_hex_uuid(portable, column_type):
        return "text", f"replace({field}, '-', '')"
    return column_type, field
