"""Try SQLite's types, with values that hardly any type limits."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st

from rowcast.shared.tables.type_mapping import NativeType
from support.fidelity.type_case import Family, Kind
from support.fidelity.types_generic import characters, documents, finite, generic, moments


def raw(parameter: sa.BindParameter[Any], _type: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
    """Write the driver's value without the column's type. The column's affinity still applies."""
    return sa.bindparam(parameter.key, type_=NativeType(""))


def kind(name: str, type_: Any, means: str, values: st.SearchStrategy[Any], *edges: Any) -> Kind:
    return Kind(name, type_, means, values, edges, raw)


def own_numbers() -> Family:
    plain = st.integers(-(2**63), 2**63 - 1) | finite
    return Family(
        "own_numbers",
        [
            kind(
                "any", sa.Numeric(), "decimal", plain.filter(lambda x: abs(x) < 1e60), 0.1, 1e22, 1.5, 2**63 - 1, 1e-30
            ),
            kind(
                "narrow",
                sa.Numeric(10, 2),
                "decimal",
                st.integers(-(10**7), 10**7) | st.floats(-1e7, 1e7).map(lambda x: round(x, 2)),
                12.5,
            ),
            kind(
                "wide",
                sa.Numeric(20, 4),
                "decimal",
                st.floats(-1e15, 1e15).map(lambda x: round(x, 1)),
                1234567890123456.0,
            ),
        ],
    )


def own_texts() -> Family:
    some = st.text(characters, max_size=30)
    return Family(
        "own_texts",
        [
            kind("name", sa.String(5), "text", some, "longer than five", "ends in spaces    "),
            kind("code", sa.CHAR(3), "text", some, "a ", "a"),
            kind("doc", sa.JSON(), "document", documents.map(json.dumps), " null", '{"a":1,"a":2}'),
        ],
    )


def own_moments() -> Family:
    return Family(
        "own_moments",
        [
            kind("at", sa.DateTime(), "timestamp", moments.map(lambda m: m.isoformat(" ")), "2026-11-21 10:11:12"),
            kind("clock", sa.Time(), "time", st.times().map(dt.time.isoformat), "10:11:12"),
        ],
    )


def alone() -> Family:
    return Family(
        "extremes",
        [
            kind("real", sa.Double(), "double", st.floats(allow_nan=False), float("inf"), float("-inf"), "no number"),
            kind("amount", sa.Numeric(10, 2), "decimal", st.floats(allow_nan=False), 12.345, 1e300, "no number"),
            kind("doc", sa.JSON(), "document", finite | st.integers(-(2**63), 2**63 - 1) | st.just("NaN"), "1.50"),
            kind("at", sa.DateTime(), "text", moments.map(lambda m: m.isoformat(" ", "seconds")), "someday"),
            kind("flag", sa.Boolean(), "text", st.integers(-5, 5)),
            kind("number", sa.Integer(), "text", finite | st.text("ab"), 1.5),
            kind("name", sa.String(5), "text", st.text(), "a\0b"),
        ],
        everywhere=False,
    )


def families() -> list[Family]:
    return [*generic(), own_numbers(), own_texts(), own_moments(), alone()]
