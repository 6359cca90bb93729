"""A block read at once has the changes that its messages have one by one, or is refused as a block."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.events.change import Change, read_change
from rowcast.consumer.events.change_block import read_block
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.shared.errors import DataError
from rowcast.shared.tables.shape import PortableType, TableShape
from support.kafka_source import column, shape
from support.memory_topics import MemorySource, Message

WHERE = ("topic", 0)


def thing(engine: str = "postgresql") -> TableShape:
    return shape("thing", column("text", "text"), column("number", PortableType("float64")), engine=engine)


def known(*shapes: TableShape) -> RowLayouts:
    layouts = RowLayouts()
    for one in shapes:
        layouts.add(one.version, one)
    return layouts


def message(value: bytes | None, key: bytes | None, offset: int) -> Message:
    return Message(*WHERE, offset, key, value)


def event(n: int, op: str = "u", *, key: bytes | None = None, table: TableShape | None = None, **row: Any) -> Message:
    table = table or thing()
    row = {"id": n, "text": "x", "number": 0.5} | row
    value = MemorySource().envelope(op, table, row, n, "7:1", n, 1)
    return message(value, b'{"id":%d}' % n if key is None else key, n)


def one_by_one(messages: list[Message], layouts: RowLayouts) -> list[Change | None] | None:
    try:
        return [read_change(m.key(), m.value() or b"", WHERE, m.offset(), layouts) for m in messages]
    except DataError:
        return None


values: Any = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 2**63), st.floats(), st.text(), st.just([1]), st.just({})
)
rows = st.fixed_dictionaries({}, optional={"text": values, "number": values, "id": values, "more": values})


@given(
    st.lists(st.tuples(st.sampled_from("curdt"), st.one_of(st.just({}), rows), st.booleans()), min_size=1, max_size=6),
    st.sampled_from(["postgresql", "sqlite"]),
)
def test_a_block_has_the_changes_of_its_messages(contents: list[tuple[str, dict[str, Any], bool]], engine: str) -> None:
    layouts = known(thing(engine))
    messages = []
    for n, (op, row, follows) in enumerate(contents):
        key = orjson.dumps({"id": row.get("id", n)}) if follows else None
        messages.append(event(n, op, key=key, table=thing(engine), **row))
    found = read_block(messages, WHERE, layouts)
    assert found is None or found == one_by_one(messages, layouts)
    if all(op in "cur" and not row for op, row, _ in contents):
        assert found is not None


USUAL = event(1)


def changed(**members: Any) -> bytes:
    return orjson.dumps(orjson.loads(USUAL.value() or b"") | members)


def changed_source(**members: Any) -> bytes:
    return changed(source=orjson.loads(USUAL.value() or b"")["source"] | members)


def without(name: str) -> bytes:
    return orjson.dumps({n: v for n, v in orjson.loads(USUAL.value() or b"").items() if n != name})


@pytest.mark.parametrize(
    "other",
    [
        message(b"", b'{"id":1}', 2), message(b"[]", b'{"id":1}', 2), message(b"5", b'{"id":1}', 2),
        message(USUAL.value(), None, 2), message(USUAL.value(), b"", 2), message(USUAL.value(), b'["id"]', 2),
        message(USUAL.value(), b'{"id":2}', 2), message(USUAL.value(), b'{"id":true}', 2),
        message(USUAL.value(), b'{"id":1.0}', 2), message(USUAL.value(), b'{"id":null}', 2),
        message(USUAL.value(), b'{"id":1,"text":"x"}', 2), message(USUAL.value(), b"{}", 2),
        message(without("transaction"), b'{"id":1}', 2), message(without("op"), b'{"id":1}', 2),
        message(changed(transaction=None), b'{"id":1}', 2), message(changed(transaction={}), b'{"id":1}', 2),
        message(changed(transaction={"id": 7}), b'{"id":1}', 2), message(changed(op="t"), b'{"id":1}', 2),
        message(changed(op="d"), b'{"id":1}', 2), message(changed(op=["u"]), b'{"id":1}', 2),
        message(changed(after=None), b'{"id":1}', 2), message(changed(after=[]), b'{"id":1}', 2),
        message(changed_source(lsn=True), b'{"id":1}', 2), message(changed_source(lsn=-1), b'{"id":1}', 2),
        message(changed_source(lsn=2**63), b'{"id":1}', 2), message(changed_source(lsn="5"), b'{"id":1}', 2),
        message(changed_source(ts_ms=0.5), b'{"id":1}', 2), message(changed_source(shape="other"), b'{"id":1}', 2),
        message(changed_source(shape={}), b'{"id":1}', 2), message(changed_source(table="other"), b'{"id":1}', 2),
    ],
)  # fmt: skip
def test_a_block_with_an_unusual_message_is_refused(other: Message) -> None:
    layouts = known(thing())
    assert read_block([USUAL, USUAL], WHERE, layouts) is not None
    assert read_block([USUAL, other], WHERE, layouts) is None
    assert read_block([other], WHERE, layouts) in (None, one_by_one([other], layouts))


def test_a_block_of_two_shapes_is_refused() -> None:
    older = shape("thing", column("text", "text"))
    layouts = known(older, thing())
    source = MemorySource()
    first = message(source.envelope("c", older, {"id": 1, "text": "x"}, 1, "7", 1, 1), b'{"id":1}', 1)
    assert read_block([first], WHERE, layouts) == one_by_one([first], layouts)
    assert read_block([first, event(2)], WHERE, layouts) is None


def test_deletes_events_without_transaction_and_old_images() -> None:
    layouts = known(thing())
    source = MemorySource()
    without_values = {"text": None, "number": None}
    snapshot = [
        message(source.envelope("r", thing(), {"id": n} | without_values, n, None, 1, 1), b'{"id":%d}' % n, n)
        for n in (1, 2)
    ]
    old = {"before": {"id": 3, "text": "old", "number": 1.0}}
    with_old = [message(orjson.dumps(orjson.loads(event(3).value() or b"") | old), b'{"id":3}', 3), event(4)]
    for messages in (snapshot, [event(1, "d"), event(2, "d")], [event(1), event(2, "d"), event(3)], with_old):
        found = read_block(messages, WHERE, layouts)
        assert found is not None
        assert found == one_by_one(messages, layouts)


def test_the_columns_of_a_key_are_in_the_order_of_the_primary_key() -> None:
    pair = shape("pair", column("part"), column("a-b c", "text"), key=("id", "part"))
    layouts = known(pair)
    value = MemorySource().envelope("c", pair, {"id": 1, "part": 2, "a-b c": "x"}, 1, "7", 1, 1)
    usual = message(value, b'{"id":1,"part":2}', 1)
    assert read_block([usual], WHERE, layouts) == one_by_one([usual], layouts)
    # The bytes of a key identify the row.
    assert read_block([message(value, b'{"part":2,"id":1}', 1)], WHERE, layouts) is None


def test_integers_beyond_64_bits_are_read_one_by_one() -> None:
    layouts = known(thing())
    value = (USUAL.value() or b"").replace(b'"after":{"id":1,', b'"after":{"id":%d,' % 2**64)
    assert value != USUAL.value()
    assert read_block([message(value, b'{"id":%d}' % 2**64, 2)], WHERE, layouts) is None


def test_deeply_nested_messages_are_read_one_by_one() -> None:
    nested = (USUAL.value() or b"")[:-1] + b',"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert read_block([message(nested, b'{"id":1}', 2)], WHERE, known(thing())) is None
