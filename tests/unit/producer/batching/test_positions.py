"""Keys of named batches are kept as text and come back equal."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from rowcast.producer.batching.positions import key_text, parse_key
from rowcast.shared.errors import ConfigurationError


@pytest.mark.parametrize(
    "value",
    [
        7,
        -(2**63),
        "Käthe",
        1.5,
        True,
        uuid.UUID(int=7),
        Decimal("1.50"),
        datetime(2026, 12, 1, 9, 30, 0, 123456),
        datetime(2026, 12, 1, tzinfo=UTC),
        date(2026, 12, 1),
        time(9, 30),
        b"\x00\xff",
    ],
)
def test_a_key_comes_back_with_its_type(value: Any) -> None:
    assert parse_key(key_text((value, 1))) == (value, 1)
    assert type(parse_key(key_text((value,)))[0]) is type(value)


def test_a_key_without_a_form_is_refused_by_its_type() -> None:
    with pytest.raises(ConfigurationError, match="a key of type list cannot be kept"):
        key_text(([1],))
