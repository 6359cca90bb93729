"""Row images on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

from rowcast.shared.images.dialect import ImageDialect
from rowcast.shared.shapes import PortableType

# What json_build_object writes as the contract wants it: dates and times in ISO 8601 whatever DateStyle is,
# NaN and infinities as strings, 64-bit integers whole.
_AS_IT_IS = frozenset(
    ("boolean", "int16", "int32", "int64", "float32", "float64", "string", "char", "text", "date", "time", "timetz")
    + ("timestamp", "uuid", "enum")
)


class PostgreSQLImages(ImageDialect):
    object_function = "json_build_object"
    members_per_call = 50  # FUNC_MAX_ARGS is 100

    def value(self, sql: str, type_: PortableType) -> str:
        match type_.name:
            case name if name in _AS_IT_IS:
                return sql
            case "timestamptz":
                iso = f"to_char({sql} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
                return f"CASE WHEN isfinite({sql}) THEN {iso} ELSE {sql}::text END"
            case "bytes":
                return f"replace(encode({sql}, 'base64'), E'\\n', '')"
            case "interval":
                parts = ("year", "month", "day", "hour", "minute", "second")
                numbers = ", ".join(f"extract({part} FROM {sql})" for part in parts)
                form = self.literal("P%sY%sM%sDT%sH%sM%sS")
                return f"CASE WHEN {sql} IS NOT NULL THEN format({form}, {numbers}) END"
            case "array" if type_.items is not None and type_.items.name in _AS_IT_IS:
                return sql
            case "array":
                return f"{sql}::text[]"
        # decimal, json and every type without a portable form
        return f"{sql}::text"

    def concatenate(self, parts: Sequence[str]) -> str:
        return "(" + " || ".join(parts) + ")"

    def as_text(self, sql: str) -> str:
        return f"{sql}::text"
