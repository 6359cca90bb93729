"""Make texts of values on PostgreSQL independent of the session's settings.

``ImageDialect`` writes most types in the same way under all settings. The text of the remaining types is known only to
the server's own output function, and the function follows settings that the application may change at any moment. The
statement changes the settings while the text is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, types
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.shared.tables.shape import PortableType

_FLOATS = {"extra_float_digits": "'1'"}
# A composite type may contain any other type.
_ALL = {
    **_FLOATS,
    "datestyle": "'ISO'",
    "intervalstyle": "'postgres'",
    "timezone": "'UTC'",
    "bytea_output": "'hex'",
}
# It says how many digits an amount has after the point. The session began with the setting of role and database.
_MONEY = {"lc_monetary": "(SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'lc_monetary')"}

_GEOMETRIC = frozenset(("POINT", "LINE", "LSEG", "BOX", "PATH", "POLYGON", "CIRCLE"))
_FREE_OF_SETTINGS = frozenset(
    ("INET", "CIDR", "MACADDR", "MACADDR8", "TSVECTOR", "TSQUERY", "BIT", "VARBIT", "XML", "OID", "UUID", "NAME")
    + ("HSTORE", "CITEXT", "LTREE", "LQUERY", "LTXTQUERY", "JSONPATH", "INTERVAL")
    + ("INT4RANGE", "INT8RANGE", "NUMRANGE", "DATERANGE", "TSRANGE", "TSTZRANGE")
    + ("INT4MULTIRANGE", "INT8MULTIRANGE", "NUMMULTIRANGE", "DATEMULTIRANGE", "TSMULTIRANGE", "TSTZMULTIRANGE")
)
_HOLDS = {"extra_float_digits": "~ '^[123]$'", "datestyle": "~ '^ISO'"}


def settings_of(types_: Iterable[PortableType]) -> dict[str, str]:
    """Map each setting that changes the texts of these types to the SQL of the needed value."""
    settings: dict[str, str] = {}
    for type_ in types_:
        settings |= _settings_of(type_)
    return settings


def _settings_of(type_: PortableType) -> Mapping[str, str]:
    if type_.name == "array" and type_.items is not None:
        return _settings_of(type_.items)
    if type_.name in ("float32", "float64"):
        return _FLOATS
    found = re.match(r"\w*", type_.native.upper())
    native = found[0] if found else ""
    if type_.name == "decimal" and native == "MONEY":
        return _MONEY
    if type_.name != "native" or native in _FREE_OF_SETTINGS:
        return {}
    return _FLOATS if native in _GEOMETRIC else _ALL


def condition_that_hold(settings: Mapping[str, str]) -> str:
    """Return the SQL condition that the session has these settings already. ``settings``: of ``settings_of``."""
    held = (f"current_setting('{name}') {_HOLDS.get(name, f'= {value}')}" for name, value in settings.items())
    return " AND ".join(held) or "true"


class UnderSettings(ColumnElement[str]):
    """Compile to a text that is made under the settings. Afterwards the session has its own settings again."""

    inherit_cache = False
    type = types.Text()

    def __init__(self, text: ColumnElement[str], settings: Mapping[str, str]) -> None:
        self.text = text
        self.settings = settings


@compiles(UnderSettings)
def _under_settings(element: UnderSettings, compiler: SQLCompiler, **kw: Any) -> str:
    settings = list(element.settings.items())
    before = ", ".join(f"current_setting('{name}') AS s{i}" for i, (name, _) in enumerate(settings))
    changed = " AND ".join(f"set_config('{name}', {value}, true) IS NOT NULL" for name, value in settings)
    restored = " AND ".join(
        f"set_config('{name}', rowcast_before.s{i}, true) IS NOT NULL" for i, (name, _) in enumerate(settings)
    )
    # OFFSET keeps the planner from pulling the subqueries up. Therefore the subqueries are evaluated in their order.
    return (
        f"(SELECT CASE WHEN {restored} THEN rowcast_made.text END FROM (SELECT {before} OFFSET 0) AS rowcast_before, "
        f"LATERAL (SELECT CASE WHEN rowcast_before.s0 IS NOT NULL AND {changed} "
        f"THEN {compiler.process(element.text, **kw)} END AS text OFFSET 0) AS rowcast_made)"
    )
