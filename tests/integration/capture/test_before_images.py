"""Events of tables with ``before = true`` have the before image, with masks applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Session, sessionmaker

from rowcast.consumer.verification.comparison import verify
from rowcast.producer import Capture
from rowcast.producer.relay.main_loop import Relay
from rowcast.shared.database.engines import open_engine
from servers import Broker
from support.lock_waits import InBackground
from support.relay.topic_reader import assert_as_documented, read_topics
from support.worker_runs import NAME, Database, settings_for, work_once


class Shop:
    """Create a shop in which ``item`` and ``part`` have before images, and ``secret`` is masked.

    A ``part`` is deleted with its item. ``plain`` has no before images.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        metadata = sa.MetaData()
        self.item = sa.Table(
            "item",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("code", sa.String(20), unique=True),
            sa.Column("note", sa.String(50)),
            sa.Column("secret", sa.String(20), info={"rowcast": {"mask": "***"}}),
            info={"rowcast": {"before": True, **settings}},
        )
        self.part = sa.Table(
            "part",
            metadata,
            sa.Column("item_id", sa.ForeignKey("item.id", ondelete="CASCADE"), primary_key=True),
            sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("name", sa.String(20)),
        )
        self.plain = sa.Table("plain", metadata, sa.Column("id", sa.Integer, primary_key=True))
        self.metadata = metadata
        self.engine = open_engine(url, "primary", pooled=False)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
        self.capture = Capture(metadata, source="shop", tables={"part": {"before": True}})
        self.sessions = sessionmaker(self.engine)
        self.capture.install(self.sessions)
        metadata.create_all(self.engine)

    def take(self) -> list[tuple[str, Any, Any, Any]]:
        """Empty the outbox. Return each change as (op, first key value, old note or name, new note or name)."""
        outbox = self.metadata.tables["rowcast_outbox"]
        with self.engine.begin() as connection:
            text = "".join(connection.scalars(sa.select(outbox.c.changes).order_by(outbox.c.id)))
            connection.execute(outbox.delete())
        lines = [orjson.loads(line) for line in text.splitlines()]
        assert all("secret" not in image or image["secret"] == "***" for line in lines for image in _images(line))
        assert '"seen"' not in text
        return [(line["op"], *(_said(line.get(member)) for member in "kba")) for line in lines]

    def seed(self, *ids: int) -> None:
        with self.sessions.begin() as session:
            rows = [{"id": n, "code": f"c{n}", "note": f"old {n}", "secret": "seen"} for n in ids]
            session.execute(sa.insert(self.item), rows)
        assert all(change[2] is None for change in self.take())


def _images(line: dict[str, Any]) -> list[dict[str, Any]]:
    return [line[member] for member in "ba" if member in line]


def _said(image: dict[str, Any] | None) -> Any:
    if image is None:
        return None
    # Look up by name, because MySQL orders the members of an object by the lengths of their names.
    return next(image[name] for name in ("note", "name", "item_id", "id") if name in image)


@pytest.fixture
def shop(primary_url: str) -> Iterator[Shop]:
    shop = Shop(primary_url)
    yield shop
    shop.engine.dispose()


def test_update_and_delete_carry_the_old_row_and_create_does_not(shop: Shop) -> None:
    item = shop.item
    shop.seed(1, 2, 3)
    with shop.sessions.begin() as session:
        session.execute(sa.update(item).where(item.c.id == 1).values(note="new"))
        session.execute(sa.delete(item).where(item.c.code == "c2"))
        session.execute(sa.insert(item).values(id=4, note="created"))
        session.execute(sa.insert(shop.plain).values(id=4))
        session.execute(sa.delete(shop.plain))
    assert shop.take() == [("u", 1, "old 1", "new"), ("d", 2, "old 2", None), ("c", 4, None, "created")]


def test_the_first_old_row_of_the_transaction_counts(shop: Shop) -> None:
    item = shop.item
    shop.seed(1, 2, 3)
    with shop.sessions.begin() as session:
        for n in range(3):
            session.execute(sa.update(item).where(item.c.note != "").values(note=f"step {n}"))
        session.execute(sa.delete(item).where(item.c.id == 2))
        session.execute(sa.delete(item).where(item.c.id == 3))
        session.execute(sa.insert(item).values(id=3, note="again"))
        session.execute(sa.insert(item).values(id=5, note="new"))
        session.execute(sa.update(item).where(item.c.id == 5).values(note="newer"))
        session.execute(sa.insert(item).values(id=6, note="short"))
        session.execute(sa.delete(item).where(item.c.id == 6))
    assert shop.take() == [
        ("u", 1, "old 1", "step 2"),
        ("u", 3, "old 3", "again"),
        ("d", 2, "old 2", None),
        ("c", 5, None, "newer"),
    ]


def test_a_rolled_back_savepoint_takes_its_old_rows_with_it(shop: Shop) -> None:
    item = shop.item
    shop.seed(1, 2)
    with shop.sessions.begin() as session:
        with suppress(ZeroDivisionError), session.begin_nested():
            session.execute(sa.delete(item))
            session.execute(sa.insert(item).values(id=1, note="inside"))
            raise ZeroDivisionError
        session.execute(sa.update(item).where(item.c.id == 1).values(note="kept"))
        with session.begin_nested():
            session.execute(sa.update(item).where(item.c.id == 1).values(note="last"))
    assert shop.take() == [("u", 1, "old 1", "last")]


def test_a_row_state_of_a_rolled_back_savepoint_is_no_before_image(shop: Shop) -> None:
    item = shop.item
    shop.seed(1)
    with shop.sessions.begin() as session:
        session.execute(sa.update(item).where(item.c.id == 1).values(note="first"))
        with suppress(ZeroDivisionError), session.begin_nested():
            session.execute(sa.update(item).where(item.c.id == 1).values(note="undone"))
            raise ZeroDivisionError
        session.execute(sa.update(item).where(item.c.id == 1).values(note="second"))
    assert shop.take() == [("u", 1, "old 1", "second")]


def test_the_unit_of_work_and_changed_keys(shop: Shop) -> None:
    registry = sa.orm.registry()

    class Item:
        id: int
        note: str

    registry.map_imperatively(Item, shop.item)
    shop.seed(*range(1, 60))
    with shop.sessions.begin() as session:
        items = {item.id: item for item in session.scalars(sa.select(Item))}
        for n in range(10, 60):
            items[n].note = f"new {n}"
        items[1].id = 1001
        session.delete(items[2])
    changes = {key: (op, old, new) for op, key, old, new in shop.take()}
    assert changes == {
        **{n: ("u", f"old {n}", f"new {n}") for n in range(10, 60)},
        1: ("d", "old 1", None),
        1001: ("c", None, "old 1"),
        2: ("d", "old 2", None),
    }
    registry.dispose()


def test_children_that_a_cascade_deletes_are_seen_before(shop: Shop) -> None:
    shop.seed(1, 2)
    with shop.sessions.begin() as session:
        session.execute(sa.insert(shop.part), [{"item_id": 1 + n % 2, "n": n, "name": f"part {n}"} for n in range(4)])
    shop.take()
    with shop.sessions.begin() as session:
        session.execute(sa.delete(shop.item).where(shop.item.c.id == 1))
    assert sorted(shop.take(), key=repr) == [
        ("d", 1, "old 1", None), ("d", 1, "part 0", None), ("d", 1, "part 2", None),
    ]  # fmt: skip


def _upsert(session: Session, table: sa.Table, *rows: dict[str, Any]) -> None:
    dialect = session.get_bind().dialect.name
    if dialect == "mysql" or dialect == "mariadb":
        statement = mysql.insert(table).values(list(rows))
        session.execute(statement.on_duplicate_key_update(note=statement.inserted.note))
        return
    insert: Any = postgresql.insert if dialect == "postgresql" else sqlite.insert
    by = "code" if "code" in rows[0] else "id"
    statement = insert(table).values(list(rows))
    session.execute(statement.on_conflict_do_update(index_elements=[by], set_={"note": statement.excluded.note}))


# MySQL does not return the key of the changed row. Therefore the given key is captured too, as a delete, because no row
# has the given key.
NEVER_THERE = ("d", 22, None, None)


def test_upserts_have_the_before_images_of_conflicting_rows(shop: Shop) -> None:
    shop.seed(1, 2)
    with shop.sessions.begin() as session:
        _upsert(session, shop.item, {"id": 1, "note": "by key"}, {"id": 7, "note": "new"})
    assert [change[1:] for change in shop.take()] == [(1, "old 1", "by key"), (7, None, "new")]
    with shop.sessions.begin() as session:
        _upsert(session, shop.item, {"id": 22, "code": "c2", "note": "by code"})
    changes = [change for change in shop.take() if change != NEVER_THERE]
    assert [change[1:] for change in changes] == [(2, "old 2", "by code")]


def test_rows_that_the_application_names_are_seen(shop: Shop) -> None:
    shop.seed(1, 2)
    with shop.sessions.begin() as session:
        session.execute(
            sa.text("UPDATE item SET note = 'by text' WHERE id = 1"), execution_options={"rowcast": {shop.item: [1, 2]}}
        )
    assert shop.take() == [("u", 1, "old 1", "by text"), ("u", 2, "old 2", "old 2")]


def test_many_rows(shop: Shop) -> None:
    shop.seed(*range(2500))
    with shop.sessions.begin() as session:
        session.execute(sa.update(shop.item).values(note="x"))
    changes = shop.take()
    assert sorted((key, old) for _, key, old, _ in changes) == [(n, f"old {n}") for n in range(2500)]


def test_before_images_of_unpublished_rows_are_not_written(
    new_database: Callable[[str], str], primary_url: str
) -> None:
    shop = Shop(primary_url, where="note <> 'draft'")
    item = shop.item
    with shop.sessions.begin() as session:
        session.execute(sa.insert(item), [{"id": 1, "note": "draft"}, {"id": 2, "note": "out"}])
    shop.take()
    with shop.sessions.begin() as session:
        session.execute(sa.update(item).where(item.c.id == 1).values(note="published"))
        session.execute(sa.update(item).where(item.c.id == 2).values(note="draft"))
    assert shop.take() == [("u", 1, None, "published"), ("d", 2, "out", None)]
    shop.engine.dispose()


@pytest.mark.parametrize("primary_url", ["postgresql", "mariadb"], indirect=True)  # SQLite has one writer at a time.
def test_the_before_image_has_the_latest_commit_of_another_transaction(shop: Shop) -> None:
    """The capture reads the before image under the row's lock, so that the image has the latest commit."""
    item = shop.item
    shop.seed(1)
    with shop.sessions() as first, shop.sessions() as second:
        first.execute(sa.update(item).where(item.c.id == 1).values(note="first"))
        change = sa.update(item).where(item.c.id == 1).values(note="second")
        behind = InBackground(second.connection(), lambda: second.execute(change))
        assert behind.waits
        first.commit()
        behind.join()
        second.commit()
    assert shop.take() == [("u", 1, "old 1", "first"), ("u", 1, "first", "second")]


def test_old_rows_travel_and_the_worker_ignores_them(
    new_database: Callable[[str], str], source_name: str, kafka: Broker
) -> None:
    url, replica_url = new_database("postgresql"), new_database("mariadb")
    shop = Shop(url)
    item = shop.item
    with shop.sessions.begin() as session:
        session.execute(sa.insert(item), [{"id": n, "code": f"{n}", "note": ',"a":{ ,"source":{'} for n in range(5)])
    with shop.sessions.begin() as session:
        session.execute(sa.update(item).where(item.c.id < 3).values(note=',"b":{"'))
        session.execute(sa.delete(item).where(item.c.id == 3))
    settings = settings_for(source_name, kafka.bootstrap_servers, replica_url, url)
    Relay(settings, shop.engine).run_once()
    published = read_topics(kafka.bootstrap_servers, source_name, "read_committed")
    assert_as_documented(published)
    values = [orjson.loads(m.value) for m in published.messages if m.topic.endswith(".item") and m.value]
    old = {"c": None, "u": ',"a":{ ,"source":{', "d": ',"a":{ ,"source":{'}
    assert [v["before"] and v["before"]["note"] for v in values] == [old[v["op"]] for v in values]
    assert {v["op"] for v in values} == {"c", "u", "d"}
    work_once(settings)
    assert verify(settings, NAME).equal
    replica = Database(replica_url)
    assert replica.rows("item", "id", "note") == [(n, ',"b":{"') for n in range(3)] + [(4, ',"a":{ ,"source":{')]
    replica.engine.dispose()
    shop.engine.dispose()
