"""Write blocks: outbox rows with the changes of many rows of one table, column by column.

PostgreSQL makes a block in half the time of the lines. The first line of a block is
``{"rows":2000,"t":"schema.table","v":"<shape version>","op":"u","k":["id"],"a":["id","at"],"utc":["at"]}``. ``k`` has
the columns of the key, ``a`` the columns of the image, and ``utc`` the columns whose moments lack their ``Z``. Then
follows one line for each column of the image: a JSON array with one value for each row. ``block_parser`` splits a block
into the same changes as the lines of ``line_writer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from rowcast.producer.database.dialects.percent_signs import for_driver
from rowcast.producer.tables.captured import CapturedTable

STORED_TYPES = sa.text(
    "SELECT attname, CASE typtype WHEN 'e' THEN 'enum' ELSE format_type(atttypid, NULL) END "
    "FROM pg_catalog.pg_attribute JOIN pg_catalog.pg_type ON pg_type.oid = atttypid "
    "WHERE attrelid = to_regclass(:name) AND attnum > 0"
).columns(sa.column("attname", sa.Text), sa.column("stored", sa.Text))
"""The query for each column of a table and its type in the database, for ``block_of``."""

# For each portable type, the stored types that array_to_json writes in the form of events. The type in the model may
# differ from the type in the database.
_WHOLE = ("smallint", "integer", "bigint")
_FLOATING = ("real", "double precision")
_TEXTS = ("text", "character varying")
_AS_IT_IS = {
    "boolean": ("boolean",),
    **dict.fromkeys(("int16", "int32", "int64"), _WHOLE),
    **dict.fromkeys(("float32", "float64"), _FLOATING),
    **dict.fromkeys(("string", "text"), _TEXTS),
    "char": ("character",),
    "date": ("date",),
    "time": ("time without time zone",),
    "timetz": ("time with time zone",),
    "timestamp": ("timestamp without time zone",),
    "enum": ("enum",),
}
_AS_TEXT = {"decimal": ("numeric",), "uuid": ("uuid",), "json": ("json", "jsonb")}

_MAX_COLUMNS = 1_500
"""PostgreSQL's SELECT has at most 1,664 columns, and the columns of the key come a second time."""


@dataclass(frozen=True, slots=True)
class Block:
    """Hold the SQL fragments of a block, with every ``%`` doubled.

    ``values`` maps a column alias to the expression for one row. ``changes`` is the expression to aggregate all rows to
    the text of the block, by the aliases.
    """

    values: Mapping[str, str]
    changes: str


def block_of(table: CapturedTable, op: str, stored: Mapping[str, str], dialect: Dialect) -> Block | None:
    """Return the SQL of a block, or None if the table needs lines.

    A table needs lines if it has a before image, a row filter, a mask, or a type that array_to_json writes differently.
    ``stored`` maps each column to its type in the database: see ``STORED_TYPES``.
    """
    if table.where is not None or table.has_before_images or len(table.columns) > _MAX_COLUMNS:
        return None
    format_column = dialect.identifier_preparer.format_column
    values: dict[str, str] = {}
    moments: list[str] = []
    for i, column in enumerate(table.columns):
        name, portable = str(column.name), table.types[str(column.name)].name
        type_ = stored.get(name, "")
        sql = format_column(column, use_table=True, use_schema=True)
        if table.shape.column(name).masking is not None:
            return None
        if type_ in _AS_IT_IS.get(portable, ()):
            value = sql
        elif type_ in _AS_TEXT.get(portable, ()):
            value = f"{sql}::text"
        elif (portable, type_) == ("timestamptz", "timestamp with time zone"):
            # PostgreSQL would look up the name of a time zone for every row, but not an interval.
            value = f"{sql} AT TIME ZONE INTERVAL '0'"
            moments.append(name)
        else:
            return None
        values[f"v{i}"] = value
    rest = {
        "t": table.full_name, "v": table.version, "op": op, "k": [str(c.name) for c in table.key_columns],
        "a": [str(c.name) for c in table.columns], "utc": moments,
    }  # fmt: skip
    literal = ("," + orjson.dumps(rest).decode()[1:]).replace("'", "''")
    header = f"'{{\"rows\":' || count(*) || '{for_driver(literal, dialect)}'"
    lines = [header, *(f"array_to_json(array_agg({value}))::text" for value in values)]
    return Block(values, f"array_to_string(ARRAY[{', '.join(lines)}], E'\\n') || E'\\n'")
