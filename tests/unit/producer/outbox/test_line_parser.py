"""Outbox lines are split by bytes, and a damaged line is never accepted."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.producer.outbox.line_parser import LineHead, LineSplitter, canonical_key, canonical_key_full
from rowcast.shared.errors import DataError

ORDERS = '{"t":"public.orders","v":"1f3a5c7e9b0d"'
UPDATE = ORDERS + ',"op":"u","k":{"id" : 1},"a":{"id" : 1, "note" : "x"}}'
DELETE = ORDERS + ',"op":"d","k":{"id" : 1}}'


def test_an_update_keeps_its_image_byte_for_byte_and_has_a_compact_key() -> None:
    assert LineSplitter().split(UPDATE + "\n") == [
        (LineHead("public.orders", "1f3a5c7e9b0d", "u"), b'{"id":1}', b'{"id" : 1, "note" : "x"}', None)
    ]


def test_a_delete_has_no_image() -> None:
    assert LineSplitter().split(DELETE + "\n") == [
        (LineHead("public.orders", "1f3a5c7e9b0d", "d"), b'{"id":1}', None, None)
    ]


def test_equal_keys_have_equal_bytes_however_the_database_wrote_them() -> None:
    spaced = ORDERS + ',"op":"d","k":{ "a" : "\\u00e9\\/" , "b":2 }}\n'
    plain = ORDERS + ',"op":"d","k":{"a":"é/","b":2}}\n'
    keys = {key for _, key, *_ in LineSplitter().split(spaced + plain)}
    assert keys == {'{"a":"é/","b":2}'.encode()}


VALUES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text()
NAMES = st.text(min_size=1) | st.sampled_from(["a", "k", 'x","a":{', '","k":{'])


@given(
    st.lists(
        st.tuples(
            NAMES,
            st.sampled_from("cud"),
            st.dictionaries(NAMES, VALUES, min_size=1),
            st.dictionaries(NAMES, VALUES | st.lists(VALUES)),
            st.none() | st.dictionaries(NAMES, VALUES | st.lists(VALUES)),
        ),
        min_size=1,
    ),
    st.sampled_from([0, orjson.OPT_INDENT_2]),
)
def test_any_names_and_values_are_split_where_they_were_joined(
    changes: list[tuple[str, str, dict[str, Any], dict[str, Any], dict[str, Any] | None]], spaces: int
) -> None:
    def dumped(value: Any) -> str:
        return orjson.dumps(value, option=spaces).decode().replace("\n", " ")

    text = ""
    for table, op, key, image, old in changes:
        before = "" if old is None else f',"b":{dumped(old)}'
        after = "" if op == "d" else f',"a":{dumped(image)}'
        text += f'{{"t":{orjson.dumps(table).decode()},"v":"1","op":"{op}","k":{dumped(key)}{before}{after}}}\n'
    split = [
        (h.table, h.op, orjson.loads(k), a and orjson.loads(a), b and orjson.loads(b))
        for h, k, a, b in LineSplitter().split(text)
    ]
    assert split == [(t, op, k, None if op == "d" else a, b) for t, op, k, a, b in changes]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (UPDATE, "does not end with a line break"),
        ("", "does not end with a line break"),
        ("\n", "not an outbox line"),
        ("garbage\n", "not an outbox line"),
        (UPDATE + "\n\n" + UPDATE + "\n", "not an outbox line"),
        (UPDATE[:-1] + "\n", "cut off"),
        (UPDATE[:-9] + "\n", "cut off"),
        (DELETE[:-1] + "\n", "cut off"),
        (UPDATE + "x\n", "cut off"),
        (UPDATE.replace('"op":"u"', '"op":"d"') + "\n", "op 'd' with a row image"),
        (DELETE.replace('"op":"d"', '"op":"c"') + "\n", "op 'c' without a row image"),
        (UPDATE.replace('"op":"u"', '"op":"x"') + "\n", "not an outbox line"),
        (UPDATE.replace('"t":"public.orders"', '"t":17') + "\n", "not an outbox line"),
        (UPDATE.replace('"v":"1f3a5c7e9b0d",', "") + "\n", "not an outbox line"),
        (UPDATE.replace('{"id" : 1},', '{"id" 1},') + "\n", "the key is no JSON"),
        (DELETE.replace('{"id" : 1}', "{}") + "\n", "the key is empty"),
    ],
)
def test_a_damaged_line_is_refused_with_the_reason(changes: str, reason: str) -> None:
    splitter = LineSplitter()
    splitter.split(UPDATE + "\n" + DELETE + "\n")
    with pytest.raises(DataError, match=reason):
        splitter.split(changes)


@given(st.integers(0, len(UPDATE) - 1))
def test_a_line_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(DataError):
        LineSplitter().split(UPDATE[:length] + "\n")


FAST_KEYS = st.dictionaries(
    st.sampled_from(["id", "n\u00e9", "a{}", ",a:{", "k"]),
    st.integers(-(10**18) + 1, 10**18 - 1) | st.text("ab {}:,\u00e9\U0001f600/'"),
    min_size=1,
)
FAST_LINES = st.lists(st.tuples(st.sampled_from("cud"), FAST_KEYS, st.text()), min_size=1, max_size=4)


def fast_text(lines: list[tuple[str, dict[str, Any], str]]) -> str:
    text = ""
    for op, key, note in lines:
        image = "" if op == "d" else f',"a":{orjson.dumps(key | {"note": note}).decode()}'
        text += f'{ORDERS},"op":"{op}","k":{orjson.dumps(key).decode()}{image}}}\n'
    return text


def splitter_with_heads() -> LineSplitter:
    """Return a splitter that has cached the heads of all ops, because the fast path needs cached heads."""
    splitter = LineSplitter()
    splitter.split("".join(fast_text([(op, {"id": 1}, "")]) for op in "cud"))
    return splitter


@given(FAST_LINES)
def test_the_fast_path_gives_what_the_full_path_gives(lines: list[tuple[str, dict[str, Any], str]]) -> None:
    splitter, text = splitter_with_heads(), fast_text(lines).encode()
    assert splitter.split_fast(text) == splitter.split_full(text)


@given(FAST_LINES, st.data())
def test_the_fast_path_takes_no_damage_that_the_full_path_refuses(
    lines: list[tuple[str, dict[str, Any], str]], data: st.DataObject
) -> None:
    splitter, text = splitter_with_heads(), fast_text(lines).encode()
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(begin + 8, len(text))))
    pieces = [
        b"",
        b"\n",
        b"}",
        b"{",
        b'"',
        b"\\",
        b" ",
        b"0",
        b"-",
        b',"b":{"id":1}',
        b',"a":{',
        b',"k":{}',
        b"x\n",
        b"\x7f",
    ]
    damaged = text[:begin] + data.draw(st.sampled_from(pieces)) + text[end:]
    found = splitter.split_fast(damaged)
    if found is not None:
        assert found == splitter.split_full(damaged)


@given(FAST_KEYS | st.dictionaries(NAMES, VALUES), st.sampled_from([0, orjson.OPT_INDENT_2]))
def test_the_fast_path_of_a_key_gives_what_the_full_path_gives(key: dict[str, Any], spaces: int) -> None:
    document = orjson.dumps(key, option=spaces)
    assert canonical_key(document) == canonical_key_full(document) == orjson.dumps(key)


@given(st.text('{}":,0123456789-ab \\\x7f', max_size=20).map(str.encode))
def test_a_key_that_is_compact_already_is_what_the_full_path_gives(document: bytes) -> None:
    try:
        expected = canonical_key_full(document)
    except orjson.JSONDecodeError:
        with pytest.raises(orjson.JSONDecodeError):
            canonical_key(document)
        return
    # No database writes a member twice, and the fast path does not look for duplicates.
    members = json.loads(document, object_pairs_hook=list)
    if isinstance(members, list) and len(dict(members)) < len(members):
        return
    assert canonical_key(document) == expected
