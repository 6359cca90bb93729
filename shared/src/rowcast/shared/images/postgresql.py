"""Row images on PostgreSQL: the same text whatever DateStyle, TimeZone, IntervalStyle, bytea_output and lc_monetary of
the session are."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from rowcast.shared.images.dialect import ImageDialect
from rowcast.shared.shapes import PortableType

# What to_json writes as the contract wants it: dates and times in ISO 8601, NaN and infinities as strings.
_AS_IT_IS = frozenset(
    ("boolean", "int16", "int32", "int64", "float32", "float64", "string", "char", "text", "date", "time", "timetz")
    + ("timestamp", "enum")
)

# Text of which nothing needs an escape in JSON.
_PLAIN = frozenset(("decimal", "bytes", "timestamptz", "interval"))

# The text of these follows the session's settings.
_RANGES = {"DATERANGE": "date", "TSRANGE": "timestamp", "TSTZRANGE": "timestamptz"}
_MULTIRANGES = {name.replace("RANGE", "MULTIRANGE"): name for name in _RANGES}
_DIMENSIONS = 6  # the most that an array of PostgreSQL has


class PostgreSQLImages(ImageDialect):
    def row(self, members: Sequence[tuple[str, str]]) -> str:
        # row_to_json and json_build_object look every value's type up for every row: they need twice as long.
        parts: list[str] = []
        for i, (name, sql) in enumerate(members):
            parts += [self.literal(f"{',' if i else '{'}{orjson.dumps(name).decode()}:"), sql]
        return _joined([*parts, self.literal("}")])

    def value(self, sql: str, type_: PortableType) -> str:
        """JSON as text, ``null`` for NULL."""
        match type_.name:
            case "boolean" | "int16" | "int32" | "int64":
                json = f"{sql}::text"
            case "string" | "text":
                # A char's padding is a part of it, which a cast would take off.
                json = f"to_json({sql}::text)::text"
            case name if name in _AS_IT_IS:
                json = f"to_json({sql})::text"
            case "uuid" if type_.native.upper() == "UUID":
                json = self._quoted(sql + "::text")
            case "uuid":
                json = f"to_json({self.hyphenated(sql)})::text"
            case "array" if type_.items is not None:
                json = f"({self._array(sql, type_.items)})::text"
            case "bytes":
                json = self._quoted(f"replace(encode({sql}, 'base64'), E'\\n', '')")
            case name if name in _PLAIN:
                json = self._quoted(self._text(sql, type_))
            case _:
                json = f"to_json({self._text(sql, type_)})::text"
        return f"coalesce({json}, 'null')"

    def _quoted(self, sql: str) -> str:
        return f"'\"' || {sql} || '\"'"

    def _text(self, sql: str, type_: PortableType) -> str:
        """A text that PostgreSQL reads as the same value, whatever the settings there are."""
        native = type_.native.upper()
        match type_.name:
            case "date" | "time" | "timetz" | "timestamp":
                return f"(to_json({sql}) #>> '{{}}')"
            case "timestamptz":
                # By an interval: the zone's name would be looked up for every row.
                utc = f"({sql} AT TIME ZONE INTERVAL '0')"
                iso = f'to_char({utc}, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\')'
                # to_char writes no era.
                before_christ = f"replace(to_json({utc}) #>> '{{}}', ' BC', '+00 BC')"
                return (
                    f"CASE WHEN {sql} >= timestamptz '0001-01-01 00:00:00+00' AND {sql} < 'infinity' THEN {iso} "
                    f"WHEN isfinite({sql}) THEN {before_christ} ELSE {sql}::text END"
                )
            case "interval":
                parts = ("year", "month", "day", "hour", "minute", "second")
                numbers = ", ".join(f"extract({part} FROM {sql})" for part in parts)
                form = self.literal("P%sY%sM%sDT%sH%sM%sS")
                # Since version 17 there are infinite ones.
                return f"CASE WHEN isfinite({sql}) THEN format({form}, {numbers}) ELSE {sql}::text END"
            case "bytes":
                return f"'\\x' || encode({sql}, 'hex')"
            case "decimal" if native == "MONEY":
                return f"{sql}::numeric::text"
            case "native" if native in _RANGES:
                return self._range(sql, PortableType(_RANGES[native]))
            case "native" if native in _MULTIRANGES:
                one = self._range("rowcast_r", PortableType(_RANGES[_MULTIRANGES[native]]))
                ranges = f"SELECT string_agg({one}, ',' ORDER BY rowcast_n) FROM unnest({sql})"
                all_ = f"({ranges} WITH ORDINALITY AS rowcast_u(rowcast_r, rowcast_n))"
                return f"CASE WHEN {sql} IS NOT NULL THEN '{{' || coalesce({all_}, '') || '}}' END"
        # decimal, json and every type without a portable form
        return f"{sql}::text"

    def _range(self, sql: str, bound: PortableType) -> str:
        low, high = (f"coalesce({self._text(f'{end}({sql})', bound)}, '')" for end in ("lower", "upper"))
        left = f"CASE WHEN lower_inc({sql}) THEN '[' ELSE '(' END"
        right = f"CASE WHEN upper_inc({sql}) THEN ']' ELSE ')' END"
        bounds = f"{left} || {low} || ',' || {high} || {right}"
        return f"CASE WHEN isempty({sql}) THEN 'empty' WHEN {sql} IS NOT NULL THEN {bounds} END"

    def _array(self, sql: str, items: PortableType) -> str:
        """A JSON array; an array that does not count from 1 as a string in PostgreSQL's own form, `[0:1]={1,2}`."""
        follows_settings = self._text("x", items) not in ("x::text", "(to_json(x) #>> '{}')")
        if follows_settings:
            whole = self._elements(sql, items, "[]", "to_json({})::text", "null")
            whole = f"({whole})::json"
        else:
            whole = f"to_json({sql if items.name in _AS_IT_IS else f'{sql}::text[]'})"
        if follows_settings or items.name in ("date", "time", "timetz", "timestamp"):
            element = "'\"' || replace({}, '\\', '\\\\') || '\"'"
            own = f"array_dims({sql}) || '=' || {self._elements(sql, items, '{}', element, 'NULL')}"
        else:
            own = f"{sql}::text"
        return f"CASE WHEN array_dims({sql}) !~ '^([[]1:[0-9]+])+$' THEN to_json({own}) ELSE {whole} END"

    def _elements(self, sql: str, items: PortableType, brackets: str, element: str, null: str) -> str:
        """An array's text with every element written by ``element``, a template. The dimensions are those of the
        array: a bracket opens before, and closes after, every so many elements."""
        written = element.format(f"({self._text('rowcast_e', items)})")
        one = f"coalesce({written}, '{null}')"
        lengths = [f"coalesce(array_length({sql}, {i}), 1)" for i in range(1, _DIMENSIONS + 1)]
        sizes = ", ".join(" * ".join(lengths[i:]) for i in range(_DIMENSIONS))
        brackets_at = (
            f"(SELECT count(*)::integer FROM unnest((ARRAY[{sizes}])[1:array_ndims({sql})]) AS rowcast_s(size) "
            "WHERE {} {percent} size = 0)"
        )
        opened = f"repeat('{brackets[0]}', {brackets_at.format('(rowcast_n - 1)', percent=self.percent)})"
        closed = f"repeat('{brackets[1]}', {brackets_at.format('rowcast_n', percent=self.percent)})"
        text = (
            f"SELECT string_agg({opened} || {one} || {closed}, ',' ORDER BY rowcast_n) "
            f"FROM unnest({sql}) WITH ORDINALITY AS rowcast_u(rowcast_e, rowcast_n)"
        )
        return f"CASE WHEN {sql} IS NOT NULL THEN coalesce(({text}), '{brackets}') END"

    def concatenate(self, parts: Sequence[str]) -> str:
        return "(" + " || ".join(parts) + ")"


def _joined(parts: Sequence[str]) -> str:
    """Texts end to end. In halves: each || copies its left side, and a thousand nested calls are too deep."""
    if len(parts) <= 8:
        return "(" + " || ".join(parts) + ")"
    half = len(parts) // 2
    return f"({_joined(parts[:half])} || {_joined(parts[half:])})"
