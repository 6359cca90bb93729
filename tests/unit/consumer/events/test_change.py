"""Convert messages to changes that keep the image's original bytes, or refuse a message with a reason."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.events.change import Change, UnknownShapeError, read_change, read_change_fully
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import TableShape
from support.kafka_source import column, shape
from support.memory_topics import MemorySource

THING = shape("thing", column("text", "text"), column("list", "array"))
WHERE = ("topic", 0)


def layouts(*shapes: TableShape) -> RowLayouts:
    known = RowLayouts()
    for one in shapes or (THING,):
        known.add(one.version, one)
    return known


def envelope(op: str = "c", row: Any = None, table: TableShape = THING, transaction: str | None = "7") -> bytes:
    row = {"id": 1, "text": "x", "list": None} if row is None else row
    return MemorySource().envelope(op, table, row, 5, transaction, 1, 1)


def read(
    value: bytes, key: bytes | None = b'{"id":1}', known: RowLayouts | None = None, **options: Any
) -> Change | None:
    return read_change(key, value, WHERE, 9, known or layouts(), **options)


nasty = st.one_of(
    st.text(),
    st.sampled_from([',"source":{', '"after":{"id":2},"source":{', "\\", '"', "}", '\\","source":{"version"']),
)


@given(nasty, st.lists(nasty))
def test_the_image_is_cut_out_as_it_is(text: str, items: list[str]) -> None:
    row = {"id": 1, "text": text, "list": items}
    # Some databases write white space between the members of an object.
    image = orjson.dumps(row, option=orjson.OPT_INDENT_2).decode()
    change = read(envelope(row=image))
    assert change is not None
    assert change.after == image.encode()
    assert (change.key, change.lsn, change.transaction, change.partition, change.offset) == (
        b'{"id":1}', 5, "7", WHERE, 9,
    )  # fmt: skip


@given(nasty, st.permutations(["before", "after", "source", "op", "ts_ms", "transaction"]))
def test_an_envelope_laid_out_otherwise_is_read_too(text: str, order: list[str]) -> None:
    row = {"id": 1, "text": text, "list": ["a"]}
    whole = orjson.loads(envelope(row=row)) | {"before": row}
    change = read(orjson.dumps({name: whole[name] for name in order}))
    assert change is not None
    assert change.after is not None
    assert orjson.loads(change.after) == row


@given(
    nasty, st.lists(nasty), st.sampled_from(["c", "u", "r", "d"]), st.sampled_from(["7", "7:5", None]), st.booleans()
)
def test_the_fast_path_reads_what_the_full_path_reads(
    text: str, items: list[str], op: str, transaction: str | None, spaced: bool
) -> None:
    row: Any = {"id": 1, "text": text, "list": items}
    if spaced:
        row = orjson.dumps(row, option=orjson.OPT_INDENT_2).decode()
    value = envelope(op, row, transaction=transaction)
    fast, full = read(value), read_change_fully(b'{"id":1}', value, WHERE, 9, layouts())
    assert fast is not None
    assert full is not None
    assert parsed(fast) == parsed(full)


def parsed(change: Change) -> tuple[Any, ...]:
    """Return the change with its image as a value, because the fast path keeps the white space."""
    image = None if change.after is None else orjson.loads(change.after)
    return (change.layout.shape, *change._replace(after=None)[1:], image)


def test_a_delete_needs_its_key_alone() -> None:
    change = read(envelope("d"), b'{"id":7}')
    assert change is not None
    assert (change.key, change.after) == (b'{"id":7}', None)


def test_a_foreign_producers_key_is_put_in_order() -> None:
    pair = shape("pair", column("a"), column("b"), key=("a", "b"))
    change = read(envelope(row={"b": 2, "a": 1}, table=pair), b'{ "b": 2, "a": 1 }', layouts(pair))
    assert change is not None
    assert change.key == b'{"a":1,"b":2}'


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (b"", b'{"id":1}', "invalid JSON"),
        (b"[]", b'{"id":1}', "not an object"),
        (b"null", b'{"id":1}', "not an object"),
        (envelope("x"), b'{"id":1}', "op: input should be 'c', 'u', 'd', 'r' or 't'"),
        (envelope(), None, "key is not an object"),
        (envelope(), b'"1"', "key is not an object"),
        (envelope(), b"{", "invalid JSON"),
        (envelope(), b'{"id":1,"more":2}', r"the key's columns are \['id', 'more'\]"),
        (envelope(row={"id": 1}), b'{"id":1}', "missing list, text"),
        (envelope(row={"id": 1, "text": "", "list": [], "new": 1}), b'{"id":1}', "unknown new"),
        (envelope().replace(b'"after":{', b'"after":{{'), b'{"id":1}', "invalid JSON"),
        (envelope(), b'{"id":2}', "the row of public.thing has another key than the message"),
        (envelope().replace(b'"lsn":5', b'"lsn":"5"'), b'{"id":1}', "source.lsn: input should be a valid integer"),
        (envelope().replace(b'"lsn":5', b'"lsn":-5'), b'{"id":1}', "source.lsn: input should be greater"),
        (envelope().replace(b'"lsn":5', b'"lsn":9223372036854775808'), b'{"id":1}', "source.lsn: input should be less"),
        (envelope().replace(b'"id":"7"', b'"id":7'), b'{"id":1}', "transaction.id: input should be a valid string"),
        (envelope().replace(b'"id":"7"', b'"id":["7"]'), b'{"id":1}', "transaction.id: input should be a valid string"),
        (envelope("d").replace(b'"op":"d"', b'"op":"u"'), b'{"id":1}', "without a row in 'after'"),
    ],
)
def test_an_invalid_event_is_refused(value: bytes, key: bytes | None, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(value, key)


def test_a_shape_that_was_not_read_yet() -> None:
    newer = shape("thing", column("text", "text"), column("list", "array"), column("more"))
    value = envelope(row={"id": 1, "text": "", "list": [], "more": 1}, table=newer)
    with pytest.raises(UnknownShapeError):
        read(value)
    known = layouts()
    known.add(newer.version, newer)
    change = read(value, known=known)
    assert change is not None
    assert change.layout.shape == newer


def test_a_lost_shape_is_inferred_from_the_latest() -> None:
    older = shape("thing", column("text", "text"))
    change = read(envelope(row={"id": 1, "text": "x"}, table=older), infer=True)
    assert change is not None
    assert change.layout.columns == ("id", "text")
    rekeyed = shape("thing", column("other"), key=("other",))
    with pytest.raises(DataError, match=r"latest shape there needs its primary key in the row"):
        read(envelope(row={"other": 1}, table=rekeyed), infer=True)


def test_dropped_columns_are_left_out_of_events_of_a_lost_shape() -> None:
    older = shape("thing", column("other"), column("text", "text"))
    change = read(envelope(row={"id": 1, "other": 1, "text": "x"}, table=older), infer=True)
    assert change is not None
    assert change.layout.columns == ("id", "text")
    assert change.after == b'{"id":1,"text":"x"}'


def test_a_shape_that_comes_again_is_the_latest_again() -> None:
    """A rollback of a migration publishes an older shape again. A second read of the schema topic does not."""
    known = RowLayouts()
    newer = shape("thing", column("more"))
    for offset, one in enumerate((THING, newer)):
        assert known.add(one.version, one, offset)
    assert not known.add(THING.version, THING, 0)
    assert known.latest_shapes() == [newer]
    assert known.add(THING.version, THING, 2)
    assert known.latest_shapes() == [THING]
    assert known.find("public.thing", newer.version) is not None


def test_a_table_outside_the_replica_is_skipped() -> None:
    known = RowLayouts(["public.other"])
    assert read(envelope(), known=known) is None
    assert not known.add(THING.version, THING)
    assert known.latest_shapes() == []


def test_the_patterns_of_tables() -> None:
    known = RowLayouts(["public.orders", "public.cust*", "stock.?"])
    wanted = ["public.orders", "public.orders2", "public.customer", "stock.a", "stock.ab", "other.orders"]
    assert [name for name in wanted if known.is_wanted(name)] == ["public.orders", "public.customer", "stock.a"]
