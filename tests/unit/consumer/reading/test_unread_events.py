"""An event that cannot be read goes with its transaction if it names one, and stops the reader if more is at fault."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.events.transactions import Transaction
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.message_router import MessageRouter
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.topic_names import transaction_topic
from support.kafka_source import column, shape
from support.memory_topics import MemorySource

ITEM = shape("item", column("n"))
TOPIC = ("shop.public.item", 0)
ENDS = (transaction_topic("shop"), 0)


class World:
    """A source in memory, and a router of a consistent replica."""

    def __init__(self, *, sets_aside: bool = True, loading: bool = False) -> None:
        self.source = MemorySource()
        self.source.add(ITEM)
        layouts = RowLayouts()
        layouts.add(ITEM.version, ITEM)
        context = ReaderContext(Settings(source="shop"), layouts, loading=loading, sets_unread_aside=sets_aside)
        self.router = MessageRouter(context)
        self.streams = {TOPIC: PartitionStream(TOPIC, "table", 0), ENDS: PartitionStream(ENDS, "transaction", 0)}

    def send_damaged(self, value: dict[str, Any] | bytes, identity: str | None) -> None:
        """Send an event with another value than its own. ``identity``: of the transaction, which ends after it."""
        self.source.lsn += 1
        if isinstance(value, dict):
            envelope = orjson.loads(self.source.envelope("c", ITEM, {"id": 2, "n": 1}, self.source.lsn, identity, 1, 1))
            value = orjson.dumps(envelope | value)
        self.source.send(TOPIC[0], value, b'{"id":2}')

    def read(self) -> list[Transaction]:
        for place, stream in self.streams.items():
            if messages := self.source.log.get(place, [])[stream.next_offset :]:
                self.router.take(stream, messages)
        return self.router.pop_ready(self.streams.values())


def test_an_event_goes_with_its_transaction() -> None:
    world = World()
    identity = world.source.put(("c", "item", {"id": 1, "n": 1}), end=False)
    world.send_damaged({"after": {"id": 2}}, identity)
    assert world.read() == []
    world.source.end(identity, {"public.item": 2})
    world.source.put(("c", "item", {"id": 3, "n": 1}))
    first, second = world.read()
    assert (first.id, len(first.changes), list(second.unread)) == (identity, 1, [])
    [unread] = first.unread
    assert (unread.transaction, unread.table, unread.key, unread.offset) == (identity, "public.item", b'{"id":2}', 1)
    assert first.positions[TOPIC].next_offset == 2


@pytest.mark.parametrize("loading", [False, True])
def test_an_event_without_a_known_transaction_goes_at_once(loading: bool) -> None:
    world = World(loading=loading)
    world.source.put(("c", "item", {"id": 1, "n": 1}))
    world.send_damaged(b"no JSON", None)
    world.source.put(("c", "item", {"id": 3, "n": 1}))
    transactions = world.read()
    assert sum(len(transaction.changes) for transaction in transactions) == 2
    [unread] = [unread for transaction in transactions for unread in transaction.unread]
    assert (unread.offset, unread.key) == (1, b'{"id":2}')
    assert transactions[-1].positions == {}


@pytest.mark.parametrize(
    "value",
    [{"op": "t", "after": 5}, {"source": {"schema": "public", "table": "other", "lsn": 5, "ts_ms": 1}}],
    ids=["a truncate", "a table without a shape"],
)
def test_more_than_a_row_stops_the_reader(value: dict[str, Any]) -> None:
    world = World()
    world.send_damaged(value, None)
    with pytest.raises(DataError):
        world.read()


def test_without_dead_letters_the_reader_stops() -> None:
    world = World(sets_aside=False)
    world.send_damaged(b"no JSON", None)
    with pytest.raises(DataError, match="offset 0"):
        world.read()
