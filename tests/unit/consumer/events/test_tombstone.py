"""A tombstone is read as a delete, unless its delete event comes before it."""

from __future__ import annotations

import orjson
import pytest

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.tombstone import OPEN_LSN, Tombstone, TombstoneReader
from support.kafka_source import column, shape
from support.memory_topics import MemorySource, Message

ITEM = shape("item", column("n"))
PARTITION = ("shop.public.item", 0)
KEY = b'{"id":7}'
CONNECT_KEY = orjson.dumps(
    {"schema": {"type": "struct", "fields": [{"field": "id", "type": "int64"}]}, "payload": {"id": 7}}
)


def tombstone(key: bytes | None) -> Message:
    return Message(*PARTITION, 5, key, None, 1234)


def read(message: Message, previous: Message | None = None, topics: str = "shop.{}.{}") -> Change | None:
    layouts = RowLayouts()
    for one in (ITEM, shape("other", column("n"))):
        layouts.add(one.version, one)
    return TombstoneReader(layouts, topics.format).read(message, previous, PARTITION)


@pytest.mark.parametrize("key", [KEY, b'{ "id": 7 }', CONNECT_KEY])
def test_a_tombstone_deletes_the_row_of_its_key(key: bytes) -> None:
    found = read(tombstone(key))
    assert found is not None
    assert (found.layout.table, found.key, found.after, found.lsn) == ("public.item", KEY, None, OPEN_LSN)
    assert (found.ts_ms, found.partition, found.offset) == (1234, PARTITION, 5)


def test_a_tombstone_after_its_delete_event_says_nothing_new() -> None:
    source = MemorySource()
    source.add(ITEM)
    source.put(("d", "item", {"id": 7}), ("u", "item", {"id": 7, "n": 1}), ("d", "item", {"id": 8}))
    delete, own, update, other_delete, _ = source.log[PARTITION]
    assert read(own, delete) is None
    assert read(own, update) is not None
    assert read(own, other_delete) is not None
    assert read(own, own) is not None


@pytest.mark.parametrize("key", [None, b"7", b"no json", b'{"nr":7}', b'{"id":7,"n":1}', b'{"schema":1}'])
def test_a_key_that_names_no_row_of_the_table_deletes_nothing(key: bytes | None) -> None:
    assert read(tombstone(key)) is None


def test_a_topic_of_several_tables_does_not_show_whose_row_was_deleted() -> None:
    assert read(tombstone(KEY), topics=PARTITION[0]) is None


@pytest.mark.parametrize(
    ("header", "lsn"),
    [(b"12", 12), (b"9" * 18, 10**18 - 1), (b"9" * 19, OPEN_LSN), (b"-1", OPEN_LSN), (None, OPEN_LSN)],
)
def test_a_tombstone_of_a_relay_has_the_lsn_of_its_delete(header: bytes | None, lsn: int) -> None:
    found = read(Message(*PARTITION, 5, KEY, None, 1234, [("__rowcast.lsn", header)]))  # type: ignore[list-item]
    assert found is not None
    assert found.lsn == lsn
    assert isinstance(found, Tombstone) == (lsn == OPEN_LSN)
