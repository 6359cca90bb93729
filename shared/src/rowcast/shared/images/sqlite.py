"""Make row images on SQLite, with registered functions."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from rowcast.shared.images.base import ImageDialect
from rowcast.shared.images.masks import DIGEST_FUNCTION, digest
from rowcast.shared.tables.shape import PortableType

BASE64_FUNCTION = "rowcast_base64"


def register_functions(connection: Any) -> None:
    """Register the functions of the images. ``connection``: of sqlite3, or SQLAlchemy's adapter of aiosqlite."""
    connection.create_function(BASE64_FUNCTION, 1, _base64, deterministic=True)
    connection.create_function(DIGEST_FUNCTION, 2, digest, deterministic=True)


def _base64(value: bytes | str | None) -> str | None:
    if value is None:
        return None
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


class SQLiteImages(ImageDialect):
    """Make the expressions of SQLite."""

    object_function = "json_object"
    members_per_call = 60  # SQLITE_MAX_FUNCTION_ARG is 127

    def value(self, sql: str, type_: PortableType) -> str:
        match type_.name:
            case "boolean":
                # The column may hold numbers other than 0 and 1, and these must not become true.
                return f"json(CASE {sql} WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE json_quote({sql}) END)"
            case "float32" | "float64" | "int16" | "int32" | "int64" | "uint64":
                # SQLite allows reals in a column of integers, and integers in a column of reals.
                return f"CASE typeof({sql}) WHEN 'integer' THEN {sql} ELSE {self._real(sql)} END"
            case "decimal":
                return f"CASE typeof({sql}) WHEN 'real' THEN {self._decimal(sql, type_.scale)} ELSE {_text(sql)} END"
            case "timestamp":
                return f"replace({sql}, ' ', 'T')"
            case "timestamptz":
                return f"replace({sql}, ' ', 'T') || 'Z'"
            case "bytes":
                return f"{BASE64_FUNCTION}({sql})"
            case "uuid":
                return self.hyphenated(sql)
            case "json":
                # SQLite stores the document 1.5 as a number, because the column's type is named JSON.
                return f"CASE typeof({sql}) WHEN 'real' THEN {self._exact(sql)} ELSE {_text(sql)} END"
            case "native":
                return _text(sql)
        return sql

    def _real(self, sql: str) -> str:
        """Return a number as JSON with all digits, because SQLite itself writes 15."""
        return (
            f"json(CASE WHEN {sql} = 9e999 THEN '\"Infinity\"' WHEN {sql} = -9e999 THEN '\"-Infinity\"' "
            f"WHEN typeof({sql}) = 'real' THEN {self._exact(sql)} ELSE json_quote({sql}) END)"
        )

    def _exact(self, sql: str) -> str:
        """Return a real with more digits than it needs, because SQLite's 17 digits are not always exact."""
        return f"printf({self.literal('%!.20g')}, {sql})"

    def _decimal(self, sql: str, scale: int | None) -> str:
        """Return the decimal that the real stands for: of this scale, or of 15 digits without a scale."""
        # Without "!", SQLite writes 16 digits and then zeros. With "!", more digits and no trailing zeros.
        forms = ["%!.15g"] if scale is None else [f"%.{scale}f", f"%!.{scale}f"]
        meant = [f"printf({self.literal(form)}, {sql})" for form in forms]
        return (
            f"CASE WHEN abs({sql}) = 9e999 THEN CASE WHEN {sql} > 0 THEN 'Infinity' ELSE '-Infinity' END "
            # SQLite reads very large and very small numbers inexactly, so fewer digits might look equal.
            f"WHEN abs({sql}) > 1e100 OR (abs({sql}) < 1e-100 AND {sql} <> 0) THEN {self._exact(sql)} "
            + " ".join(f"WHEN CAST({text} AS REAL) = {sql} THEN {text}" for text in meant)
            + f" ELSE {self._exact(sql)} END"
        )

    def concatenate(self, parts: Sequence[str]) -> str:
        return "(" + " || ".join(parts) + ")"


def _text(sql: str) -> str:
    return f"CAST({sql} AS TEXT)"
