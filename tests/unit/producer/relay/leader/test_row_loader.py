"""Rows are loaded in the order of their claim, and an error names the row that cannot be published."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from rowcast.producer.outbox.line_parser import LineHead
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.outbox_reader import Head, OutboxReader, OutboxRow
from rowcast.producer.relay.kafka.size_limits import SizeLimits
from rowcast.producer.relay.leader.row_loader import RowLoader
from rowcast.producer.relay.messages.batch_rows import UnpublishableError
from rowcast.producer.relay.messages.envelopes import Envelopes
from rowcast.producer.relay.messages.table_versions import TableVersions
from support.relay.primary import ITEMS, ORDERS, Primary, line, primary_at


class World:
    """Hold a primary, and a row loader with a limit of 20,000 bytes. ``prepared``: the heads passed to ``prepare``."""

    def __init__(self, primary: Primary, connections: Connections) -> None:
        self.primary = primary
        self.prepared: list[Collection[LineHead]] = []
        outbox = OutboxReader(connections, primary.tables)
        tables = TableVersions(connections, "shop")
        envelopes = Envelopes("shop", "app", tables)
        limits = SizeLimits({"message.max.bytes": 20_000})
        self.loader = RowLoader(outbox, tables, envelopes, limits, self.prepared.append)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with primary_at(tmp_path / "primary.db") as primary, Connections(primary.engine) as connections:
        primary.add_shapes(ORDERS)
        yield World(primary, connections)


def head_of(id_: int, text: str, *, with_row: bool) -> Head:
    row = OutboxRow(id_, "a", 1, text) if with_row else None
    return Head(id_, "a", 1, True, len(text), row)


def test_rows_come_in_the_order_of_the_ids_without_those_that_are_deleted(world: World) -> None:
    first, second = (world.primary.add("a", line(ORDERS, "c", n)) for n in (1, 2))
    assert [row.id for row in world.loader.read([second, 99, first])] == [second, first]


def test_a_row_that_came_with_its_head_is_not_read_again(world: World) -> None:
    read = world.primary.add("a", line(ORDERS, "c", 1))
    with_head = head_of(50, line(ORDERS, "c", 2), with_row=True)
    without = head_of(read, line(ORDERS, "c", 1), with_row=False)
    rows = world.loader.read([50, read], [with_head, without])
    assert [(row.id, row.changes[0][1]) for row in rows] == [(50, b'{"id":2}'), (read, b'{"id":1}')]


def test_a_damaged_row_is_named(world: World) -> None:
    id_ = world.primary.add("a", "garbage\n")
    with pytest.raises(UnpublishableError, match=rf"row {id_} of rowcast_outbox \(transaction a\)") as caught:
        world.loader.read([id_])
    assert caught.value.tx == "a"


def test_a_row_with_an_unknown_shape_is_named(world: World) -> None:
    id_ = world.primary.add("a", line(ITEMS, "c", 1))
    with pytest.raises(UnpublishableError, match=rf"row {id_} .* has no version"):
        world.loader.read([id_])


def test_usual_rows_are_not_turned_into_messages_to_measure_them(world: World) -> None:
    text = line(ORDERS, "c", 1, "x" * 1_000)
    head = head_of(1, text, with_row=True)
    world.loader.check_sizes(world.loader.read([1], [head]), [head], 1)
    assert world.prepared == []


def test_a_row_with_many_small_changes_passes(world: World) -> None:
    text = "".join(line(ORDERS, "c", n, "x" * 500) for n in range(100))
    head = head_of(1, text, with_row=True)
    world.loader.check_sizes(world.loader.read([1], [head]), [head], 1)


def test_a_change_that_is_too_large_is_named_with_its_table_and_the_hint(world: World) -> None:
    text = line(ORDERS, "c", 1, "x" * 20_000)
    head = head_of(1, text, with_row=True)
    rows = world.loader.read([1], [head])
    with pytest.raises(UnpublishableError, match=r"table public\.orders: a message of .*raise max\.message\.bytes"):
        world.loader.check_sizes(rows, [head], 1)
    assert [list(heads) for heads in world.prepared] == [[LineHead("public.orders", ORDERS.version, "c")]]


def test_a_chunk_with_a_row_that_is_too_large_is_refused_with_the_reason(world: World) -> None:
    head = LineHead("public.orders", ORDERS.version, "r")
    small = (head, b'{"id":1}', b'{"id":1}', None)
    large = (head, b'{"id":2}', b'{"id":2,"note":"%b"}' % (b"x" * 20_000), None)
    assert world.loader.chunk_excess([small], 16, 1) is None
    reason = world.loader.chunk_excess([small, large], 20_100, 1)
    assert reason is not None
    assert "a message of 20," in reason
    assert reason.endswith("and request the snapshot again")
