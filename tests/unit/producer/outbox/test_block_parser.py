"""A block gives the values of the equivalent outbox lines, and a damaged block is never accepted."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.producer.outbox.block_parser import ChangeSplitter, with_zone, with_zone_full
from rowcast.producer.outbox.line_parser import LineHead
from rowcast.shared.errors import DataError

NAMES = st.text(min_size=1) | st.sampled_from(["a", "100%b", '","', '"rows":2', "null"])
TEXTS = st.text() | st.sampled_from(['a",', '","', "\\", '\\"', "null", "[1,2]", "\n", "\x7f"])
WHOLE = st.integers(-(2**63), 2**63 - 1)
VALUES = [st.none() | TEXTS, WHOLE, st.none() | st.booleans(), st.none() | st.floats(-1e9, 1e9)]


def block(names: list[str], rows: list[list[Any]], **header: Any) -> str:
    first = {"rows": len(rows), "t": "public.orders", "v": "1f3a", "op": "u", "k": names[:1], "a": names, "utc": []}
    columns = [orjson.dumps(column).decode() for column in zip(*rows, strict=True)]
    return "\n".join([orjson.dumps(first | header).decode(), *columns, ""])


@given(st.data())
def test_any_values_are_split_row_by_row(data: st.DataObject) -> None:
    names = data.draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    kinds = [data.draw(st.sampled_from(VALUES)) for _ in names]
    rows = data.draw(st.lists(st.tuples(*kinds).map(list), min_size=1, max_size=5))
    changes = ChangeSplitter().split(block(names, rows))
    assert [head for head, *_ in changes] == [LineHead("public.orders", "1f3a", "u")] * len(rows)
    assert [key for _, key, *_ in changes] == [orjson.dumps({names[0]: row[0]}) for row in rows]
    assert [image for _, _, image, _ in changes] == [orjson.dumps(dict(zip(names, row, strict=True))) for row in rows]
    assert {before for *_, before in changes} == {None}


@pytest.mark.parametrize(
    ("moment", "image"),
    [
        ("2026-11-22T10:46:19.467668", "2026-11-22T10:46:19.467668Z"),
        ("2026-11-22T10:46:19.4676", "2026-11-22T10:46:19.467600Z"),
        ("2026-11-22T10:46:19", "2026-11-22T10:46:19.000000Z"),
        ("10000-01-01T00:00:00.12345", "10000-01-01T00:00:00.123450Z"),
        ("294276-12-31T23:59:59.999999", "294276-12-31T23:59:59.999999Z"),
        ("0044-03-15T10:00:00.123 BC", "0044-03-15T10:00:00.123+00 BC"),
        ("0044-03-15T10:00:00 BC", "0044-03-15T10:00:00+00 BC"),
        ("4713-01-01T00:00:00.123456 BC", "4713-01-01T00:00:00.123456+00 BC"),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
        (None, None),
    ],
)
def test_moments_are_those_of_row_images(moment: str | None, image: str | None) -> None:
    (change,) = ChangeSplitter().split(block(["id", "at"], [[1, moment]], utc=["at"]))
    assert change[2] == orjson.dumps({"id": 1, "at": image})


GOOD = block(["id", "note"], [[1, "a"], [2, "b"]])


@pytest.mark.parametrize(
    "changes",
    [
        GOOD[:-1],
        GOOD + "\n",
        GOOD.replace('"rows":2', '"rows":3'),
        GOOD.replace('"rows":2', '"rows":"2"'),
        GOOD.replace("[1,2]", "[1,2,3]"),
        GOOD.replace("[1,2]", "[1,[2]]"),
        GOOD.replace("[1,2]", "[1,2"),
        GOOD.replace("[1,2]\n", ""),
        GOOD.replace("[1,2]", '["1,"2"]'),
        GOOD.replace("[1,2]", '[1,{"a":2}]'),
        GOOD.replace('"a"', '"a'),
        GOOD.replace('"op":"u"', '"op":"d"'),
        GOOD.replace('"t":"public.orders"', '"t":7'),
        GOOD.replace('"v":"1f3a",', ""),
        GOOD.replace('"k":["id"]', '"k":[]'),
        GOOD.replace('"k":["id"]', '"k":["other"]'),
        GOOD.replace('"utc":[]', '"utc":7'),
        GOOD.replace('{"rows"', '{"rows":1,"rows"').replace("}\n", "\n"),
        '{"rows":2\n',
        '{"rows":',
    ],
)
def test_a_damaged_block_says_so(changes: str) -> None:
    with pytest.raises(DataError, match=r"not a block of the outbox|does not end"):
        ChangeSplitter().split(changes)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, len(GOOD)))
def test_a_block_that_is_cut_is_never_taken_for_a_whole_one(start: int, stop: int) -> None:
    cut = GOOD[:start] + GOOD[stop:]
    if start == stop or not cut:
        return
    try:
        changes = ChangeSplitter().split(cut)
    except DataError:
        return
    # The damage may have shortened values or names, but rows and members must be complete.
    assert len(changes) == 2
    for _, key, image, _ in changes:
        assert len(orjson.loads(key)) == 1
        assert image is not None
        assert len(orjson.loads(image)) == 2


moments = st.builds(
    lambda year, rest, fraction, era: f'"{year:04}-{rest}{fraction}{era}"'.encode(),
    st.integers(1, 294276),
    st.sampled_from(["11-22T10:46:19", "01-01T00:00:00"]),
    st.sampled_from(["", ".1", ".12345", ".123456"]),
    st.sampled_from(["", " BC"]),
)


@given(moments | st.sampled_from([b"null", b'"infinity"', b'"-infinity"']))
def test_the_fast_path_of_a_moment_gives_what_the_full_path_gives(moment: bytes) -> None:
    assert with_zone(moment) == with_zone_full(moment)
