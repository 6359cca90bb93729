"""Equal values are equal in every engine's form, and different values are not."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from rowcast.consumer.verification.canonical_values import canonical_form
from rowcast.shared.tables.shape import PortableType


def form(name: str, value: Any, **options: Any) -> Any:
    convert = canonical_form(PortableType(name, **options))
    return orjson.dumps(value if convert is None else convert(value))


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("boolean", True, 1),
        ("int64", 9223372036854775807, "9223372036854775807"),
        ("float64", 0.1, "0.1"),
        ("float64", "NaN", "NaN"),
        ("float64", "Infinity", "Infinity"),
        ("float64", 100.0, 100),
        ("float32", 0.1, 0.10000000149011612),
        ("float32", "NaN", "NaN"),
        ("decimal", "12.50", "12.5"),
        ("decimal", "1E+2", "100"),
        ("decimal", "NaN", "NaN"),
        ("char", "ab", "ab  "),
        ("timestamp", "2026-11-21T10:11:12.120000", "2026-11-21 10:11:12.12"),
        ("timestamp", "2026-11-21T10:11:00.000000", "2026-11-21T10:11:00"),
        ("timestamptz", "2026-11-21T10:11:12Z", "2026-11-21 10:11:12+00:00"),
        ("time", "10:11:12.500000", "10:11:12.5"),
        ("uuid", "123E4567-E89B-12D3-A456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
        ("json", '{"a": 1, "b": [2, null]}', '{"b":[2,null],"a":1}'),
        ("json", "[1.50, true]", "[1.5, true]"),
        ("float64", "no number", "no number"),
        ("decimal", "no number", "no number"),
    ],
)
def test_equal_values(name: str, one: Any, other: Any) -> None:
    assert form(name, one) == form(name, other)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("boolean", True, False),
        ("int64", 9007199254740993, 9007199254740992),
        ("float64", 0.1, 0.10000000000000002),
        ("decimal", "0.10000000000000000001", "0.1"),
        ("decimal", "NaN", "0"),
        ("text", "a", "a "),
        ("text", "a", "A"),
        ("timestamp", "2026-11-21T10:11:10", "2026-11-21T10:11:01"),
        ("timestamp", "2026-11-21T10:11:12.1", "2026-11-21T10:11:12.01"),
        ("json", "[1, 2]", "[2, 1]"),
        ("json", "not JSON", "not JSON "),
        ("json", '{"a": 1, "a": 2}', '{"a": 2}'),
        ("json", "12345678901234567890.1", "12345678901234567890.2"),
        ("json", "1", "true"),
        ("boolean", 2, True),
        ("int64", 1.5, 1),
        ("decimal", "12345678901234567.89", "12345678901234568"),
        ("bytes", "AAEC", "AAED"),
    ],
)
def test_different_values(name: str, one: Any, other: Any) -> None:
    assert form(name, one) != form(name, other)


def test_arrays_and_the_text_that_stands_for_them() -> None:
    items = PortableType("decimal")
    assert form("array", ["1.50", None], items=items) == form("array", '["1.5", null]', items=items)
    assert form("array", [["1"], ["2"]], items=items) == form("array", '[["1.0"],["2"]]', items=items)
    assert form("array", ["1"], items=items) != form("array", ["1", None], items=items)
    own = "[0:1]={1,2}"
    assert form("array", own, items=items) == form("array", f'"{own}"', items=items)
