"""Tables are created from shapes, checked if they exist, and changed to new shapes where possible."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.shape import TableShape
from support.kafka_source import column, shape
from support.memory_replica import MemoryReplica, memory_replica

THING = shape("thing", column("n"), column("note", "text"))


def layout(shape: TableShape) -> RowLayout:
    return RowLayout(shape, tuple(c.name for c in shape.columns))


def columns(replica: MemoryReplica, table: str) -> list[str]:
    with replica.connection.begin():
        return [c["name"] for c in sa.inspect(replica.connection).get_columns(table)]


def test_a_missing_table_is_created() -> None:
    with memory_replica() as replica:
        assert replica.tables.needs_prepare([THING])
        replica.prepare(THING)
        assert not replica.tables.needs_prepare([THING])
        assert columns(replica, "thing") == ["id", "n", "note"]
        assert replica.tables.table("public.thing").key == ("id",)
        with replica.connection.begin():
            assert replica.tables.records.created_by_worker(replica.connection) == {"public.thing"}


def test_a_table_of_another_schema_has_the_schema_in_its_name() -> None:
    other = shape("thing", column("n"), schema="stock", default_schema=False)
    with memory_replica(other) as replica:
        assert columns(replica, "stock_thing") == ["id", "n"]


def test_a_table_of_the_users_is_used_if_it_fits() -> None:
    with memory_replica() as replica:
        replica.execute("CREATE TABLE thing (id BIGINT PRIMARY KEY, n BIGINT, note TEXT, own TEXT, UNIQUE (own))")
        replica.prepare(THING)
        assert replica.tables.table("public.thing").other_unique
        with replica.connection.begin():
            assert replica.tables.records.created_by_worker(replica.connection) == set()


@pytest.mark.parametrize(
    ("ddl", "reason"),
    [
        ("id BIGINT PRIMARY KEY, n BIGINT", "table thing has no column note"),
        ("id BIGINT, n BIGINT PRIMARY KEY, note TEXT", r"primary key of the replica's table thing is \(n\)"),
    ],
)
def test_a_table_of_the_users_that_does_not_fit_is_refused(ddl: str, reason: str) -> None:
    with memory_replica() as replica:
        replica.execute(f"CREATE TABLE thing ({ddl})")
        with pytest.raises(ConfigurationError, match=reason):
            replica.prepare(THING)


def test_a_new_column_is_added() -> None:
    newer = shape("thing", column("n"), column("note", "text"), column("more", nullable=False))
    with memory_replica(THING) as replica:
        assert not replica.tables.fits(layout(newer))
        replica.prepare(newer)
        assert columns(replica, "thing") == ["id", "n", "note", "more"]
        assert replica.tables.fits(layout(newer))
        # An event of the old shape may need a wider column, so the table is compared once.
        old = layout(THING)
        assert not replica.tables.fits(old)
        with replica.connection.begin():
            replica.tables.prepare(replica.connection, [newer], [old])
        assert replica.tables.fits(old)


@pytest.mark.parametrize(
    ("newer", "reason"),
    [
        (shape("thing", column("n"), column("note", "text"), key=("id", "n")), "primary key of table public.thing has"),
        (shape("thing", column("n", "text"), column("note", "text")), "column n of .* changed from int64 to text"),
    ],
)
def test_another_key_or_type_needs_a_rebuild(newer: TableShape, reason: str) -> None:
    with memory_replica(THING) as replica:
        assert not replica.tables.fits(layout(newer))
        with pytest.raises(DataError, match=f"{reason}.*Rebuild the replica"):
            replica.prepare(newer)


def test_a_row_with_columns_of_the_users_cannot_be_replaced() -> None:
    with memory_replica() as replica:
        replica.execute("CREATE TABLE thing (id BIGINT PRIMARY KEY, n BIGINT UNIQUE, note TEXT, own TEXT)")
        replica.prepare(THING)
        with replica.connection.begin(), pytest.raises(DataError, match=r"no value for their columns own.*Drop the"):
            replica.tables.require_replaceable(replica.connection, layout(THING))


def test_a_row_that_a_cascade_of_the_users_would_follow_cannot_be_replaced() -> None:
    child = shape("child", column("thing_id"))
    with memory_replica(THING) as replica:
        replica.execute(
            "CREATE TABLE child (id BIGINT PRIMARY KEY, thing_id BIGINT, "
            "FOREIGN KEY (thing_id) REFERENCES thing (id) ON DELETE CASCADE)"
        )
        with replica.connection.begin():
            replica.tables.require_replaceable(replica.connection, layout(THING))
        replica.prepare(child)
        with replica.connection.begin(), pytest.raises(DataError, match=r"foreign key .* of child would CASCADE"):
            replica.tables.require_replaceable(replica.connection, layout(THING))
