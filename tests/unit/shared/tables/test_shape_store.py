"""The newest shape of a table is the shape with the greatest creation time, then the greatest version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Connection

from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables import shape_store
from rowcast.shared.tables.shape import TableShape
from support.kafka_source import column, shape

ITEM, ITEM_2 = shape("item", column("n")), shape("item", column("n"), column("note"))
ORDERS = shape("orders", column("n"))


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = sa.create_engine("sqlite://")
    metadata = sa.MetaData()
    outbox_tables(metadata)
    metadata.create_all(engine)
    with engine.begin() as connection:
        yield connection


def store(connection: Connection, one: TableShape, created_ms: int, document: str | None = None) -> None:
    values = {
        "table_name": one.full_name, "version": one.version, "created_ms": created_ms, "rows_before": False,
        "shape": one.to_json().decode() if document is None else document,
    }  # fmt: skip
    connection.execute(sa.insert(outbox_tables(sa.MetaData()).shape), values)


def newest(connection: Connection) -> str:
    """Return the newest version of ``item``, after a check that all functions of the store agree."""
    name = ITEM.full_name
    version = shape_store.newest_version(connection, name)
    assert version is not None
    one = shape_store.newest_shape(connection, name)
    assert one is not None
    assert one.version == version == shape_store.newest_shapes(connection)[name].version
    last = [s for s in shape_store.stored_shapes(connection) if s.table == name][-1]
    assert last.version == version
    row = outbox_tables(sa.MetaData()).shape.c
    versions: dict[str, int] = {}
    for stored, created_ms in connection.execute(sa.select(row.version, row.created_ms).where(row.table_name == name)):
        versions[stored] = created_ms
    assert shape_store.newest_of(versions) == version
    return version


@given(st.integers(0, 3), st.integers(0, 3))
def test_all_ways_to_ask_agree_on_the_newest(first_ms: int, second_ms: int) -> None:
    engine = sa.create_engine("sqlite://")
    metadata = sa.MetaData()
    outbox_tables(metadata)
    metadata.create_all(engine)
    with engine.begin() as connection:
        store(connection, ITEM, first_ms)
        store(connection, ITEM_2, second_ms)
        store(connection, ORDERS, 9)
        expected = max((first_ms, ITEM.version), (second_ms, ITEM_2.version))[1]
        assert newest(connection) == expected
    engine.dispose()


def test_a_table_that_was_never_captured_has_no_newest_shape(connection: Connection) -> None:
    assert shape_store.newest_shape(connection, "public.item") is None
    assert shape_store.newest_version(connection, "public.item") is None
    assert shape_store.newest_shapes(connection) == {}


def test_a_damaged_shape_is_an_error_only_if_it_is_the_newest(connection: Connection) -> None:
    store(connection, ITEM, 1, "{")
    with pytest.raises(DataError, match=rf"table public.item, version {ITEM.version}, in rowcast_shape"):
        shape_store.newest_shapes(connection)
    with pytest.raises(DataError, match=rf"table public.item, version {ITEM.version}, in rowcast_shape"):
        shape_store.newest_shape(connection, "public.item")
    store(connection, ITEM_2, 2)
    assert newest(connection) == ITEM_2.version


def test_a_primary_without_the_table_is_a_matter_of_configuration(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(ConfigurationError, match="no table rowcast_shape"):
        shape_store.written_shapes(engine)
    metadata = sa.MetaData()
    outbox_tables(metadata)
    metadata.create_all(engine)
    with engine.begin() as connection:
        store(connection, ORDERS, 1)
        store(connection, ITEM, 2)
    assert [one.name for one in shape_store.written_shapes(engine)] == ["item", "orders"]
    engine.dispose()
