"""Make row images on PostgreSQL.

The texts do not depend on the session's DateStyle, TimeZone, IntervalStyle, bytea_output or
standard_conforming_strings. Types have their schema, because the expressions are also in trigger functions, and a role
can create a type of the same name in ``pg_temp``.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from rowcast.shared.images.base import ImageDialect
from rowcast.shared.tables.shape import PortableType

# Types for which to_json writes the encoding of the contract: ISO 8601, and NaN and infinities as strings.
_JSON_TYPES = frozenset(
    ("boolean", "int16", "int32", "int64", "float32", "float64", "string", "char", "text", "date", "time", "timetz")
    + ("timestamp", "enum")
)

# Types whose text needs no escape in JSON.
_TYPES_WITHOUT_ESCAPES = frozenset(("decimal", "bytes", "timestamptz", "interval"))

# Ranges whose text depends on the session's settings, with the type of their bounds.
_RANGES = {"DATERANGE": "date", "TSRANGE": "timestamp", "TSTZRANGE": "timestamptz"}
_MULTIRANGES = {name.replace("RANGE", "MULTIRANGE"): name for name in _RANGES}
_BACKSLASH = "\\"
_MAX_DIMENSIONS = 6  # of an array


class PostgreSQLImages(ImageDialect):
    """Make the expressions of PostgreSQL."""

    def literal(self, text: str) -> str:
        # Without E, a backslash depends on standard_conforming_strings.
        literal = super().literal(text)
        return f"E{literal.replace(_BACKSLASH, _BACKSLASH * 2)}" if _BACKSLASH in text else literal

    def row(self, members: Sequence[tuple[str, str]]) -> str:
        # row_to_json and json_build_object take twice as long, because they look up each value's type for each row.
        parts: list[str] = []
        for i, (name, sql) in enumerate(members):
            parts += [self.literal(f"{',' if i else '{'}{orjson.dumps(name).decode()}:"), sql]
        return _joined([*parts, self.literal("}")])

    def value(self, sql: str, type_: PortableType) -> str:
        """Return JSON as text, with ``null`` for NULL."""
        match type_.name:
            case "boolean" | "int16" | "int32" | "int64":
                json = f"{sql}::pg_catalog.text"
            case "string" | "text":
                # char is not here: a cast would remove the padding, which is part of the value.
                json = f"to_json({sql}::pg_catalog.text)::pg_catalog.text"
            case name if name in _JSON_TYPES:
                json = f"to_json({sql})::pg_catalog.text"
            case "uuid" if type_.native.upper() == "UUID":
                json = self._quoted(sql + "::pg_catalog.text")
            case "uuid":
                json = f"to_json({self.hyphenated(sql)})::pg_catalog.text"
            case "array" if type_.items is not None:
                json = f"({self._array(sql, type_.items)})::pg_catalog.text"
            case "bytes":
                json = self._quoted(f"replace(encode({sql}, 'base64'), E'\\n', '')")
            case name if name in _TYPES_WITHOUT_ESCAPES:
                json = self._quoted(self._text(sql, type_))
            case _:
                json = f"to_json({self._text(sql, type_)})::pg_catalog.text"
        return f"coalesce({json}, 'null')"

    def _quoted(self, sql: str) -> str:
        return f"'\"' || {sql} || '\"'"

    def _text(self, sql: str, type_: PortableType) -> str:
        """Return a text that PostgreSQL reads as the same value under any settings."""
        native = type_.native.upper()
        match type_.name:
            case "date" | "time" | "timetz" | "timestamp":
                return f"(to_json({sql}) #>> '{{}}')"
            case "timestamptz":
                # An interval is faster than a zone name, which PostgreSQL would look up for each row.
                utc = f"({sql} AT TIME ZONE INTERVAL '0')"
                iso = f'to_char({utc}, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\')'
                # to_char does not write the era.
                before_christ = f"replace(to_json({utc}) #>> '{{}}', ' BC', '+00 BC')"
                first = "TIMESTAMP WITH TIME ZONE '0001-01-01 00:00:00+00'"
                return (
                    f"CASE WHEN {sql} >= {first} AND {sql} < 'infinity' THEN {iso} "
                    f"WHEN isfinite({sql}) THEN {before_christ} ELSE {sql}::pg_catalog.text END"
                )
            case "interval":
                parts = ("year", "month", "day", "hour", "minute", "second")
                numbers = ", ".join(f"extract({part} FROM {sql})" for part in parts)
                form = self.literal("P%sY%sM%sDT%sH%sM%sS")
                # PostgreSQL 17 and later have infinite intervals.
                return f"CASE WHEN isfinite({sql}) THEN format({form}, {numbers}) ELSE {sql}::pg_catalog.text END"
            case "bytes":
                return f"{self.literal(_BACKSLASH + 'x')} || encode({sql}, 'hex')"
            case "decimal" if native == "MONEY":
                return f"{sql}::numeric::pg_catalog.text"
            case "native" if native in _RANGES:
                return self._range(sql, PortableType(_RANGES[native]))
            case "native" if native in _MULTIRANGES:
                one = self._range("rowcast_r", PortableType(_RANGES[_MULTIRANGES[native]]))
                ranges = f"SELECT string_agg({one}, ',' ORDER BY rowcast_n) FROM unnest({sql})"
                all_ = f"({ranges} WITH ORDINALITY AS rowcast_u(rowcast_r, rowcast_n))"
                return f"CASE WHEN {sql} IS NOT NULL THEN '{{' || coalesce({all_}, '') || '}}' END"
        # decimal, json and every type without a portable form
        return f"{sql}::pg_catalog.text"

    def _range(self, sql: str, bound: PortableType) -> str:
        low, high = (f"coalesce({self._text(f'{end}({sql})', bound)}, '')" for end in ("lower", "upper"))
        left = f"CASE WHEN lower_inc({sql}) THEN '[' ELSE '(' END"
        right = f"CASE WHEN upper_inc({sql}) THEN ']' ELSE ')' END"
        bounds = f"{left} || {low} || ',' || {high} || {right}"
        return f"CASE WHEN isempty({sql}) THEN 'empty' WHEN {sql} IS NOT NULL THEN {bounds} END"

    def _array(self, sql: str, items: PortableType) -> str:
        """Return a JSON array.

        An array whose indexes do not begin at 1 becomes a string in PostgreSQL's own form, such as ``[0:1]={1,2}``.
        """
        follows_settings = self._text("x", items) not in ("x::pg_catalog.text", "(to_json(x) #>> '{}')")
        if follows_settings:
            whole = self._elements(sql, items, "[]", "to_json({})::pg_catalog.text", "null")
            whole = f"({whole})::pg_catalog.json"
        else:
            whole = f"to_json({sql if items.name in _JSON_TYPES else f'{sql}::pg_catalog.text[]'})"
        if follows_settings or items.name in ("date", "time", "timetz", "timestamp"):
            backslash = self.literal(_BACKSLASH)
            element = f"'\"' || replace({{}}, {backslash}, {backslash} || {backslash}) || '\"'"
            own = f"array_dims({sql}) || '=' || {self._elements(sql, items, '{}', element, 'NULL')}"
        else:
            own = f"{sql}::pg_catalog.text"
        # A regular expression does not work with every collation of the elements.
        dimensions = f'array_dims({sql}) COLLATE pg_catalog."C"'
        return f"CASE WHEN {dimensions} !~ '^([[]1:[0-9]+])+$' THEN to_json({own}) ELSE {whole} END"

    def _elements(self, sql: str, items: PortableType, brackets: str, element: str, null: str) -> str:
        """Return an array's text with each element written by the template ``element``.

        ``brackets``: the opening and the closing bracket. The size of each dimension says after how many elements a
        bracket closes and the next one opens.
        """
        written = element.format(f"({self._text('rowcast_e', items)})")
        one = f"coalesce({written}, '{null}')"
        lengths = [f"coalesce(array_length({sql}, {i}), 1)" for i in range(1, _MAX_DIMENSIONS + 1)]
        sizes = ", ".join(" * ".join(lengths[i:]) for i in range(_MAX_DIMENSIONS))
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
    """Return the texts joined end to end.

    The halves are joined recursively, because each ``||`` copies its left side, and a thousand nested calls are too
    deep.
    """
    if len(parts) <= 8:
        return "(" + " || ".join(parts) + ")"
    half = len(parts) // 2
    return f"({_joined(parts[:half])} || {_joined(parts[half:])})"
