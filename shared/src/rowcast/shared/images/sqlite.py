"""Row images on SQLite."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from rowcast.shared.images.dialect import ImageDialect
from rowcast.shared.images.masks import DIGEST_FUNCTION, digest
from rowcast.shared.shapes import PortableType

BASE64_FUNCTION = "rowcast_base64"


def register_functions(connection: Any) -> None:
    """Gives a DBAPI connection (sqlite3's, or SQLAlchemy's adapted aiosqlite one) what the images need."""
    connection.create_function(BASE64_FUNCTION, 1, _base64, deterministic=True)
    connection.create_function(DIGEST_FUNCTION, 2, digest, deterministic=True)


def _base64(value: bytes | str | None) -> str | None:
    if value is None:
        return None
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


class SQLiteImages(ImageDialect):
    object_function = "json_object"
    members_per_call = 60  # SQLITE_MAX_FUNCTION_ARG is 127

    def value(self, sql: str, type_: PortableType) -> str:
        match type_.name:
            case "boolean":
                return f"json(CASE WHEN {sql} THEN 'true' WHEN NOT {sql} THEN 'false' END)"
            case "float32" | "float64":
                # SQLite writes a real into JSON with 15 digits, which loses; 17 do not.
                exact = self.literal("%!.17g")
                return (
                    f"json(CASE WHEN {sql} = 9e999 THEN '\"Infinity\"' WHEN {sql} = -9e999 THEN '\"-Infinity\"' "
                    f"WHEN typeof({sql}) = 'real' THEN printf({exact}, {sql}) ELSE json_quote({sql}) END)"
                )
            case "decimal":
                fixed = self.literal(f"%.{type_.scale}f") if type_.scale is not None else self.literal("%!.15g")
                return f"CASE typeof({sql}) WHEN 'real' THEN printf({fixed}, {sql}) ELSE CAST({sql} AS TEXT) END"
            case "timestamp":
                return f"replace({sql}, ' ', 'T')"
            case "timestamptz":
                return f"replace({sql}, ' ', 'T') || 'Z'"
            case "bytes":
                return f"{BASE64_FUNCTION}({sql})"
            case "uuid":
                return _hyphenated(sql)
            case "json" | "native":
                return f"CAST({sql} AS TEXT)"
        return sql

    def concatenate(self, parts: Sequence[str]) -> str:
        return "(" + " || ".join(parts) + ")"

    def as_text(self, sql: str) -> str:
        return sql


def _hyphenated(sql: str) -> str:
    pieces = " || '-' || ".join(f"substr({sql}, {a}, {n})" for a, n in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12)))
    return f"lower(CASE WHEN length({sql}) = 32 THEN {pieces} ELSE {sql} END)"
