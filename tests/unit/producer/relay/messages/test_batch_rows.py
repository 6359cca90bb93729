"""Parsed rows: the fast path detects damage, the full path describes the damage, and lsns are counted."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.producer.relay.claims.outbox_reader import OutboxRow
from rowcast.producer.relay.claims.partial_transaction import PartialTransaction
from rowcast.producer.relay.messages.batch_rows import (
    ParsedRow,
    UnpublishableError,
    _are_json_fast,
    _first_damaged,
    _is_json,
    event_count,
    heads_in,
    lsn_count,
    parse_row,
    partial_after,
)
from rowcast.shared import row_values
from support.relay.primary import ITEMS, ORDERS, line

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
images = st.dictionaries(st.text(), scalars, max_size=3).map(orjson.dumps)
damaged_images = (
    st.text(alphabet='{}[]",:a1 \\')
    .map(lambda inner: b"{%b}" % inner.encode())
    .filter(lambda image: not _is_json(image))
)


def row(id_: int, tx: str, *lines: str) -> ParsedRow:
    return parse_row(OutboxRow(id_, tx, 1, "".join(lines)), ChangeSplitter())


@given(st.lists(images))
def test_both_paths_accept_valid_images(valid: list[bytes]) -> None:
    assert _are_json_fast(valid)
    assert all(map(_is_json, valid))


@given(st.lists(images), damaged_images, st.data())
def test_both_paths_find_a_damaged_image(valid: list[bytes], damaged: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(valid)))
    all_images = [*valid[:place], damaged, *valid[place:]]
    assert not _are_json_fast(all_images)
    assert _first_damaged(all_images) == damaged


def test_a_damaged_image_among_many_is_named() -> None:
    lines = [line(ORDERS, "c", n) for n in range(1_200)]
    lines[700] = lines[700].replace('"note"', "note")
    with pytest.raises(UnpublishableError, match=r"\(transaction a\): a row image is not JSON\."):
        row(1, "a", *lines)
    with (
        row_values.shown_if(True),
        pytest.raises(UnpublishableError, match=r'a row image is not JSON: .*"id" : 700, note'),
    ):
        row(1, "a", *lines)


def test_each_head_comes_once_with_its_first_row() -> None:
    rows = [row(1, "a", line(ORDERS, "c", 1), line(ITEMS, "c", 1)), row(2, "a", line(ORDERS, "c", 2))]
    assert [(r.id, head.table) for r, head in heads_in(rows)] == [(1, "public.orders"), (1, "public.items")]


def test_each_change_begin_and_end_takes_an_lsn() -> None:
    rows = [row(1, "a", line(ORDERS, "c", 1)), row(2, "b", line(ORDERS, "c", 2), line(ORDERS, "d", 2))]
    assert event_count(rows) == 3
    assert lsn_count(rows, None, False) == 3 + 4
    assert lsn_count(rows, None, True) == 3 + 3
    assert lsn_count(rows, PartialTransaction("a", 0, 1), False) == 3 + 3
    assert lsn_count(rows, PartialTransaction("other", 0, 1), False) == 3 + 4


def test_the_partial_transaction_counts_the_events_of_all_its_claims() -> None:
    first = [row(1, "a", line(ORDERS, "c", 1)), row(2, "b", line(ITEMS, "c", 1))]
    assert partial_after(first, None, None) is None
    partial = partial_after(first, None, 9)
    assert partial == PartialTransaction("b", 2, 9, {"public.items": 1})
    second = [row(4, "b", line(ITEMS, "c", 2), line(ORDERS, "c", 2))]
    assert partial_after(second, partial, 9) == PartialTransaction("b", 4, 9, {"public.items": 2, "public.orders": 1})
