"""Row images in the form of Kafka Connect: the fast path keeps bytes that the full path would not change."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.producer.outbox.line_parser import LineHead
from rowcast.producer.relay.messages.connect_images import _encode, _TableImages
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import ColumnShape, PortableType, TableShape


def shape(*columns: tuple[str, str]) -> TableShape:
    key = ColumnShape("id", PortableType("int64"), nullable=False)
    others = (ColumnShape(name, PortableType(type_), nullable=True) for name, type_ in columns)
    return TableShape("public", "t", "postgresql", (key, *others), ("id",))


FLOATS = _TableImages(shape(("x", "float64"), ("note", "text")))
DATES = _TableImages(shape(("day", "date")))
HEAD = LineHead("public.t", "v", "u")

notes = st.text() | st.sampled_from(["NaN", "Infinity", "-Infinity", 'say "NaN"'])
rows = st.fixed_dictionaries(
    {"id": st.integers(0, 9), "x": st.none() | st.floats(allow_nan=False, allow_infinity=False), "note": notes}
)


@given(rows.map(orjson.dumps))
def test_both_paths_give_the_same_row(image: bytes) -> None:
    full = _encode(image, FLOATS._encoders)
    assert orjson.loads(FLOATS._encode_image(image)) == orjson.loads(full)
    if FLOATS._needs_no_encoding(image):
        assert FLOATS._encode_image(image) is image


@pytest.mark.parametrize("special", ["NaN", "Infinity", "-Infinity"])
def test_a_special_value_is_found_in_spite_of_the_fast_path(special: str) -> None:
    image = orjson.dumps({"id": 1, "x": special, "note": ""})
    with pytest.raises(DataError, match=r"table public\.t, column x: .*represent the value"):
        FLOATS.encode_change((HEAD, b'{"id":1}', image, None))


def test_values_of_a_column_with_another_form_are_converted() -> None:
    image = b'{"id":1,"day":"1970-01-11"}'
    _, key, after, before = DATES.encode_change((HEAD, b'{"id":1}', image, None))
    assert (key, orjson.loads(after or b""), before) == (b'{"id":1}', {"id": 1, "day": 10}, None)


def test_null_stays_null() -> None:
    image = b'{"id":1,"day":null}'
    assert DATES.encode_change((HEAD, b'{"id":1}', image, image))[2:] == (image, image)
