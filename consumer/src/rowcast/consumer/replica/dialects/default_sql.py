"""Write a known form of a server default in the SQL of the replica's engine.

The text of a default in a shape never becomes SQL: numbers are checked digits, strings are quoted, and functions come
from the lists of this module.
"""

from __future__ import annotations

import re
from dataclasses import replace

from rowcast.shared.tables.server_defaults import NUMBER, ServerDefault
from rowcast.shared.tables.shape import INTEGER_TYPES, ColumnShape
from rowcast.shared.tables.type_mapping import engine_family

_NUMBERS = INTEGER_TYPES | {"float32", "float64", "decimal"}
_TEXTS = frozenset(("string", "char", "text", "enum", "json"))
_TRUE, _FALSE = frozenset(("1", "t", "true", "yes", "on", "y")), frozenset(("0", "f", "false", "no", "off", "n"))
# MySQL takes a default of these types only as an expression.
MYSQL_LONG = re.compile(r"(tiny|medium|long)?(text|blob)|json|geometry")
_DIGITS = re.compile(r"\((\d)\)")


def default_sql(column: ColumnShape, source_engine: str, engine: str, stored: str) -> str | None:
    """Return the SQL of the column's default, or None if impossible on the engine.

    ``stored``: the engine's name of the replica column's type, in lower case. ``engine``: the family of the replica's
    engine.
    """
    assert column.default is not None
    is_own = engine_family(source_engine) == engine
    default = _suited(column.default, column.type.name, source_engine)
    match default.kind:
        case "number" if column.type.name in _NUMBERS or is_own:
            return default.value
        case "boolean" if column.type.name == "boolean":
            return default.value if engine == "postgresql" else str(int(default.value == "true"))
        case "string" if column.type.name in (*_TEXTS, "date") or (is_own and column.type.name not in _NUMBERS):
            return _string(default.value, engine, stored)
        case "now_on_update" if engine == "mysql" and is_own and column.type.name in ("timestamp", "timestamptz"):
            present = f"CURRENT_TIMESTAMP{_digits(stored)}"
            return f"{present} ON UPDATE {present}"
        case "now" | "utc_now" | "today":
            return _time(default.kind, column.type.name, engine, stored, is_own=is_own)
        case "uuid" if column.type.name in (*_TEXTS, "uuid"):
            return _uuid(engine, stored)
    return None


def _suited(default: ServerDefault, type_name: str, source_engine: str) -> ServerDefault:
    """Return the default in the form of the column's type, because models often give 0 or 'false' for any type."""
    if default.kind in ("number", "string"):
        if type_name == "boolean" and default.value.lower() in _TRUE | _FALSE:
            return ServerDefault("boolean", "true" if default.value.lower() in _TRUE else "false")
        if type_name in _NUMBERS and NUMBER.fullmatch(default.value):
            return ServerDefault("number", default.value)
        if type_name in _TEXTS:
            return replace(default, kind="string")
    if default.kind == "boolean" and type_name in _NUMBERS:
        return ServerDefault("number", str(int(default.value == "true")))
    if default.kind == "now" and source_engine == "sqlite":
        # CURRENT_TIMESTAMP of SQLite is in UTC.
        return ServerDefault("utc_now")
    return default


def _string(value: str, engine: str, stored: str) -> str:
    if engine == "mysql":
        value = value.replace("\\", "\\\\")
    quoted = "'" + value.replace("'", "''") + "'"
    return f"({quoted})" if engine == "mysql" and MYSQL_LONG.match(stored) else quoted


def _time(kind: str, type_name: str, engine: str, stored: str, *, is_own: bool) -> str | None:
    if type_name == "date":
        return "(CURRENT_DATE)" if engine == "mysql" else "CURRENT_DATE"
    if kind == "today":
        return None
    if type_name == "time" and kind == "now":
        return {"mysql": f"(CURRENT_TIME{_digits(stored)})", "postgresql": "LOCALTIME"}.get(engine, "CURRENT_TIME")
    if type_name not in ("timestamp", "timestamptz"):
        return None
    if engine == "sqlite":
        return "CURRENT_TIMESTAMP"
    if engine == "postgresql":
        return "timezone('utc', now())" if kind == "utc_now" and type_name == "timestamp" else "now()"
    # A replica on another engine than the source stores times with a zone in UTC.
    if kind == "utc_now" or (type_name == "timestamptz" and not is_own):
        return f"(UTC_TIMESTAMP{_digits(stored)})"
    return f"(CURRENT_TIMESTAMP{_digits(stored)})"


def _digits(stored: str) -> str:
    match = _DIGITS.search(stored)
    return match[0] if match else ""


def _uuid(engine: str, stored: str) -> str | None:
    without_hyphens = re.fullmatch(r"(?:char|character|varchar)\(32\)", stored) is not None
    if engine == "postgresql":
        return "replace(gen_random_uuid()::text, '-', '')" if without_hyphens else "gen_random_uuid()"
    if engine == "mysql":
        return "(REPLACE(UUID(), '-', ''))" if without_hyphens else "(UUID())"
    return None
