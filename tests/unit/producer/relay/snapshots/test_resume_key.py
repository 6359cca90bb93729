"""A snapshot resumes after exactly the stored key."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.producer.relay.snapshots.resume_key import key_from_json, key_to_json
from rowcast.shared.errors import DataError

values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**64 - 1),
    st.text(),
    st.binary(),
    st.floats(allow_nan=False),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.datetimes(),
    st.dates(),
    # The range of TIME in MariaDB, the only type for which a driver returns a timedelta as a key.
    st.timedeltas(timedelta(hours=-839), timedelta(hours=839)),
)


@given(st.lists(values, min_size=1, max_size=4))
def test_a_key_comes_back_with_its_values_and_types(key: list[Any]) -> None:
    found = key_from_json(key_to_json(key))
    assert found == key
    assert [type(value) for value in found] == [type(value) for value in key]


def test_a_datetime_is_not_taken_for_a_date() -> None:
    key = [datetime(2026, 1, 2, 3, 4), date(2026, 1, 2), timedelta(microseconds=-1)]
    assert key_from_json(key_to_json(key)) == key


@pytest.mark.parametrize("value", [uuid4(), True, ("a", "b")])
def test_a_value_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match=f"a snapshot cannot resume after a key of type {type(value).__name__}"):
        key_to_json([value])
