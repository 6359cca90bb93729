"""Each outbox line leads to a shape and a topic, and shapes are published before events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from rowcast.producer.outbox.line_parser import LineHead
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.messages.table_versions import TableVersions
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tables.shape_document import parse_shape
from support.relay.primary import ITEMS, ORDERS, Primary, primary_at, shape

ORDERS_2 = shape("orders", "note", "colour")


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Primary]:
    with primary_at(tmp_path / "primary.db") as primary:
        yield primary


@pytest.fixture
def connections(primary: Primary) -> Iterator[Connections]:
    with Connections(primary.engine) as connections:
        yield connections


def head(table: TableShape) -> LineHead:
    return LineHead(table.full_name, table.version, "u")


def versions(tables: TableVersions, *heads: LineHead) -> list[str]:
    return [table.version for table in tables.to_publish(heads)]


def test_a_shape_is_published_once(primary: Primary, connections: Connections) -> None:
    primary.add_shapes(ORDERS, ITEMS)
    tables = TableVersions(connections, "shop")
    assert versions(tables, head(ORDERS), head(ITEMS)) == [ORDERS.version, ITEMS.version]
    assert versions(tables, head(ORDERS), head(ITEMS)) == []


def test_what_all_tables_have_is_published_at_takeover_without_any_event(
    primary: Primary, connections: Connections
) -> None:
    primary.add_shapes(ORDERS, created_ms=1)
    primary.add_shapes(ORDERS_2, created_ms=2)
    tables = TableVersions(connections, "shop")
    assert [table.version for table in tables.all_to_publish()] == [ORDERS_2.version]
    assert versions(tables, head(ORDERS_2)) == []


def test_after_an_older_version_the_newest_comes_again_for_compaction_keeps_the_last(
    primary: Primary, connections: Connections
) -> None:
    primary.add_shapes(ORDERS, created_ms=1)
    primary.add_shapes(ORDERS_2, created_ms=2)
    tables = TableVersions(connections, "shop")
    tables.all_to_publish()
    assert versions(tables, head(ORDERS)) == [ORDERS.version, ORDERS_2.version]
    assert versions(tables, head(ORDERS), head(ORDERS_2)) == []


def test_a_version_that_is_the_newest_again_comes_again_before_its_next_event(
    primary: Primary, connections: Connections
) -> None:
    """The version returns, for example, when a migration is rolled back."""
    primary.add_shapes(ORDERS, created_ms=1)
    primary.add_shapes(ORDERS_2, created_ms=2)
    tables = TableVersions(connections, "shop")
    tables.all_to_publish()
    assert versions(tables, head(ORDERS), head(ORDERS_2)) == [ORDERS.version, ORDERS_2.version]
    shape = primary.tables.shape
    with primary.engine.begin() as connection:
        connection.execute(shape.update().where(shape.c.version == ORDERS.version).values(created_ms=3))
    assert versions(tables, head(ORDERS_2)) == []
    assert versions(tables, head(ORDERS), head(ORDERS_2)) == [ORDERS.version]
    assert versions(tables, head(ORDERS_2), head(ORDERS)) == []


def test_a_version_that_came_later_is_found(primary: Primary, connections: Connections) -> None:
    primary.add_shapes(ORDERS)
    tables = TableVersions(connections, "shop")
    primary.add_shapes(ORDERS_2, created_ms=2)
    assert tables.get(head(ORDERS_2)).version == ORDERS_2.version


def test_a_version_that_no_capture_wrote_is_refused(primary: Primary, connections: Connections) -> None:
    with pytest.raises(DataError, match=r"no version '\w+' of the table 'public.orders'"):
        TableVersions(connections, "shop").get(head(ORDERS))


def test_two_tables_that_would_share_a_topic_are_refused_by_name(primary: Primary, connections: Connections) -> None:
    primary.add_shapes(shape("a b"), shape("a+b"))
    with pytest.raises(ConfigurationError, match=r"public\.a[ +]b and public\.a[ +]b would share the topic shop"):
        TableVersions(connections, "shop")


def test_a_template_that_makes_one_topic_of_two_tables_is_refused(primary: Primary, connections: Connections) -> None:
    primary.add_shapes(shape("a"), replace(shape("a"), schema="other"))
    with pytest.raises(
        ConfigurationError, match=r"\w+\.a and \w+\.a would share the topic shop-a: the template '.*' in"
    ):
        TableVersions(connections, "shop", "{source}-{table}")


def test_a_template_that_makes_a_topic_of_rowcasts_own_is_refused(primary: Primary, connections: Connections) -> None:
    primary.add_shapes(shape("transaction"))
    with pytest.raises(ConfigurationError, match=r"public\.transaction would go to the topic shop\.transaction"):
        TableVersions(connections, "shop", "{source}.{table}")


def test_a_topic_name_that_kafka_would_refuse_is_refused_first(primary: Primary, connections: Connections) -> None:
    primary.add_shapes(shape("x" * 250))
    with pytest.raises(ConfigurationError, match="characters, and Kafka allows 249"):
        TableVersions(connections, "shop")


def test_a_damaged_shape_is_refused_by_table_and_version(primary: Primary, connections: Connections) -> None:
    primary.add_shapes(ORDERS)
    with primary.engine.begin() as connection:
        connection.execute(primary.tables.shape.update().values(shape="{}"))
    with pytest.raises(DataError, match=rf"table public.orders, version {ORDERS.version}, in rowcast_shape"):
        TableVersions(connections, "shop")


def test_a_shape_message_is_the_shape_with_version_source_and_lsn(primary: Primary, connections: Connections) -> None:
    primary.add_shapes(ORDERS)
    table = TableVersions(connections, "shop").get(head(ORDERS))
    assert orjson.loads(table.key()) == {"schema": "public", "table": "orders"}
    value = orjson.loads(table.value("shop", 17))
    assert (value["version"], value["source"], value["lsn"]) == (ORDERS.version, "shop", 17)
    assert parse_shape(table.value("shop", 17)) == ORDERS
    assert table.topic == "shop.public.orders"
