"""Read the values of a database by SQL of the tests, in a form common to all engines."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.shared.tables.type_mapping import engine_family
from support.fidelity.type_case import Family, Kind

Rows = dict[int, tuple[Any, ...]]

_SETTINGS = {
    "postgresql": ("timezone = 'UTC'", "datestyle = 'ISO'", "intervalstyle = 'postgres'", "bytea_output = 'hex'"),
    "mysql": ("time_zone = '+00:00'",),
}
"""Settings of the reading sessions. The sessions that write to the primary have different settings."""

_HEX = ("text", "char", "bytes", "uuid", "document", "array", "range", "interval", "bits")


def rows(connection: sa.Connection, family: Family) -> Rows:
    """Return the exact values of each kind's column, by id: texts, or the driver's values on SQLite."""
    engine = engine_family(connection.dialect.name)
    quote = connection.dialect.identifier_preparer.quote
    columns = ", ".join(_stored(engine, kind, quote(kind.name)) for kind in family.kinds)
    for setting in _SETTINGS.get(engine, ()):
        connection.exec_driver_sql(f"SET {setting}")
    found = connection.exec_driver_sql(f"SELECT id, {columns} FROM {quote(family.name)}")
    return {row[0]: tuple(row[1:]) for row in found}


def _stored(engine: str, kind: Kind, column: str) -> str:
    if engine == "postgresql":
        if kind.means == "bytes":
            return f"encode({column}, 'hex')"
        return f"{column}::numeric::text" if isinstance(kind.type_, postgresql.MONEY) else f"{column}::text"
    if engine == "mysql":
        if kind.means in ("bytes", "bits") or isinstance(kind.type_, sa.LargeBinary):
            return f"HEX({column})"
        if kind.means in _HEX:
            return f"HEX(CONVERT({column} USING utf8mb4))"
        if kind.means in ("single", "double"):
            # MySQL's CAST to text gives too few digits of a DOUBLE. As JSON the number has all digits.
            return f"CASE WHEN {column} IS NOT NULL THEN CAST(JSON_ARRAY(CAST({column} AS DOUBLE)) AS CHAR) END"
        return f"CAST({column} AS CHAR)"
    return f"CASE WHEN {column} IS NOT NULL THEN hex({column}) END" if kind.means == "bytes" else column


def meaning(engine: str, kind: Kind, value: Any) -> Any:
    """Return the meaning of a stored value. ``value`` is not NULL."""
    if engine == "mysql" and kind.means in _HEX and kind.means != "bytes":
        value = bytes.fromhex(value).decode() if kind.means != "bits" else str(int(value, 16))
    if engine == "mysql" and kind.means in ("single", "double"):
        value = value.strip("[]")
    return MEANINGS[kind.means](value)


def _same(value: Any) -> Any:
    return str(value)


def _boolean(value: Any) -> bool:
    return {"1": True, "0": False, "true": True, "false": False}[str(value)]


def _double(value: Any) -> str:
    # SQLite and MariaDB have no negative zero.
    return struct.pack(">d", float(value) + 0.0).hex()


def _single(value: Any) -> str:
    return struct.pack(">f", float(value) + 0.0).hex()


def _decimal(value: Any) -> Decimal:
    return Decimal(repr(value) if isinstance(value, float) else str(value))


def _time(value: str) -> str:
    whole, _, fraction = value.partition(".")
    return f"{whole}.{fraction:0<6}"


def _timestamp(value: str) -> str:
    return _time(value.replace("T", " ").removesuffix("+00"))


MEANINGS: dict[str, Callable[[Any], Any]] = {
    "boolean": _boolean,
    "integer": int,
    "double": _double,
    "single": _single,
    "decimal": _decimal,
    "text": _same,
    "bits": _same,
    "document": _same,
    "char": lambda value: value.rstrip(" "),
    "bytes": str.upper,
    "uuid": lambda value: value.replace("-", "").lower(),
    "time": _time,
    "timestamp": _timestamp,
    "array": _same,
    "interval": _same,
    "range": _same,
}

READ_BACK = ("array", "interval", "range")
"""Meanings with several spellings in PostgreSQL.

PostgreSQL must read the replica's text as the value in the primary.
"""


def read_back(connection: sa.Connection, kind: Kind, texts: Sequence[str | None]) -> list[str | None]:
    """Return the texts of a replica in PostgreSQL's spelling."""
    ddl = kind.type_.compile(dialect=connection.dialect)
    if kind.means == "array":
        # A document in a JSON array is a string that contains the document's text.
        through = "text[]" if isinstance(kind.type_.item_type, sa.JSON) else ddl
        value = f"(SELECT r.x::{ddl}::text FROM json_to_record(('{{\"x\":' || t || '}}')::json) AS r(x {through}))"
    else:
        value = f"t::{ddl}::text"
    found = connection.exec_driver_sql(
        f"SELECT CASE WHEN t IS NOT NULL THEN {value} END FROM unnest(%s::text[]) WITH ORDINALITY AS a(t, n) "
        "ORDER BY n",
        (list(texts),),
    )
    return list(found.scalars())
