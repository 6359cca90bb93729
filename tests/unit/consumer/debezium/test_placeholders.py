"""The placeholder for an unchanged large value is known in the form of every type."""

from __future__ import annotations

from typing import Any

import pytest

from rowcast.consumer.debezium.placeholders import Placeholders

TEXT = "__debezium_unavailable_value"


@pytest.mark.parametrize(
    "value",
    [
        TEXT,
        "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
        TEXT.encode().hex(),
        [TEXT],
        ["X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="],
        list(TEXT.encode()),
        {TEXT: TEXT},
        f'{{"{TEXT}":"{TEXT}"}}',
    ],
)
def test_a_column_with_the_placeholder_is_left_out(value: Any) -> None:
    assert Placeholders(TEXT).left_out({"id": 1, "large": value, "text": "other", "list": [1], "none": None}) == [
        "large"
    ]


def test_the_placeholder_is_a_setting() -> None:
    assert Placeholders("~").left_out({"a": "~", "b": TEXT}) == ["a"]
