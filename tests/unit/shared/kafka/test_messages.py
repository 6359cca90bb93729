"""The fast path for a BEGIN or END reads what the full path reads, and accepts nothing more."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.shared.errors import DataError
from rowcast.shared.kafka import messages
from rowcast.shared.kafka.messages import TransactionEvent, parse_transaction, transaction_value

_WRONG: Any = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 2**64 - 1), st.floats(), st.text(max_size=3), st.just([]), st.just({}),
    st.just("a\x00"), st.just("x" * 1_001), st.just('{"user":"ann"}'),
)  # fmt: skip
_NUMBERS = st.integers(0, 2**63 - 1)
_COUNTS = st.lists(st.fixed_dictionaries({"data_collection": st.text(min_size=1), "event_count": _NUMBERS}), max_size=2)
_USUAL = st.fixed_dictionaries(
    {"status": st.sampled_from(["BEGIN", "END"]), "id": st.text(min_size=1), "ts_ms": _NUMBERS, "lsn": _NUMBERS},
    optional={
        "event_count": st.none() | _NUMBERS, "data_collections": st.none() | _COUNTS, "timeline": _NUMBERS,
        "context": st.dictionaries(st.text(), st.text(), max_size=2),
    },
)  # fmt: skip
_MEMBERS = ("status", "id", "ts_ms", "lsn", "event_count", "data_collections", "context", "timeline", "more")


def full(value: bytes) -> TransactionEvent | str:
    try:
        return messages._parse_transaction_fully(value)
    except DataError as error:
        return f"{error}"


def usual(value: bytes) -> TransactionEvent | str:
    try:
        return parse_transaction(value)
    except DataError as error:
        return f"{error}"


@given(_USUAL, st.dictionaries(st.sampled_from(_MEMBERS), _WRONG, max_size=2), st.booleans())
def test_both_paths_agree(document: dict[str, Any], wrong: dict[str, Any], has_schema: bool) -> None:
    document |= wrong
    value = orjson.dumps({"schema": {}, "payload": document} if has_schema else document)
    assert usual(value) == full(value)


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b"null", b"{", b"\xff", b"[" * 100_000])
def test_both_paths_refuse_what_is_no_object(value: bytes) -> None:
    assert isinstance(usual(value), str)
    assert usual(value) == full(value)


def test_the_relays_messages_take_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(messages, "_parse_transaction_fully")
    for event in (
        TransactionEvent("BEGIN", "7", 5, 6),
        TransactionEvent("END", "7:8", 5, 7, 2, {"public.a": 2}, {"user": "ann"}, timeline=3),
    ):
        assert parse_transaction(transaction_value(event)) == event
