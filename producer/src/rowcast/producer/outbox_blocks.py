"""Blocks: outbox rows that tell many rows of one table column by column, which PostgreSQL makes in half the time.

A block's first line is ``{"rows":2000,"t":"schema.table","v":"<shape version>","op":"u","k":["id"],"a":["id","at"],
"utc":["at"]}``: the columns of the key, those of the image, and those of moments, which lack their ``Z``. Behind it
comes a line for each column of the image, a JSON array of so many values. ``relay.blocks`` makes of it what so many
lines of ``outbox_lines`` would tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from rowcast.producer.tables import CapturedTable

STORED_TYPES = sa.text(
    "SELECT attname, CASE typtype WHEN 'e' THEN 'enum' ELSE format_type(atttypid, NULL) END "
    "FROM pg_catalog.pg_attribute JOIN pg_catalog.pg_type ON pg_type.oid = atttypid "
    "WHERE attrelid = to_regclass(:name) AND attnum > 0"
).columns(sa.column("attname", sa.Text), sa.column("stored", sa.Text))
"""Each column of a table and the type that it has in the database, as ``block_of`` wants them."""

# Where array_to_json writes values as the contract wants them: of the portable types, as they may be stored. A model
# may have another type than the database has.
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

_MOST_COLUMNS = 1_500
"""PostgreSQL's SELECT has at most 1,664, the key's once more among them."""


@dataclass(frozen=True, slots=True)
class Block:
    """SQL of a block, with every ``%`` doubled: ``values`` of one row by the names that ``changes``, which is the text
    of all rows, has for them."""

    values: Mapping[str, str]
    changes: str


def block_of(table: CapturedTable, op: str, stored: Mapping[str, str], dialect: Dialect) -> Block | None:
    """None if a row of the table can only be told by a line: there is a value that has no such form, or an old row or a
    predicate to look at. ``stored``: see ``STORED_TYPES``."""
    if table.where is not None or table.before or len(table.columns) > _MOST_COLUMNS:
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
            # By an interval: the zone's name would be looked up for every row.
            value = f"{sql} AT TIME ZONE INTERVAL '0'"
            moments.append(name)
        else:
            return None
        values[f"v{i}"] = value
    rest = {
        "t": table.full_name, "v": table.version, "op": op, "k": [str(c.name) for c in table.key_columns],
        "a": [str(c.name) for c in table.columns], "utc": moments,
    }  # fmt: skip
    header = f"'{{\"rows\":' || count(*) || {_literal(',' + orjson.dumps(rest).decode()[1:])}"
    lines = [header, *(f"array_to_json(array_agg({value}))::text" for value in values)]
    return Block(values, f"array_to_string(ARRAY[{', '.join(lines)}], E'\\n') || E'\\n'")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"
