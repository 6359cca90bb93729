"""A renamed table is renamed on every replica, and its events under both names meet in one table."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import ENGINES, NewDatabase
from rowcast.consumer.events.dead_letter import LetterEvent, SetAside
from rowcast.consumer.rebuild.options import RebuildOptions
from rowcast.consumer.rebuild.rebuild import rebuild
from rowcast.consumer.replica.letter_rows import add_letters, blocked_keys
from rowcast.consumer.verification.comparison import verify
from rowcast.producer import Capture
from rowcast.producer.relay import Relay
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError
from servers import Broker
from support.direct_replica import DirectReplica, direct_replica
from support.kafka_source import column, shape
from support.relay.threads import running_thread
from support.worker_runs import NAME, Database, settings_for, work_once


def models(*, renamed: bool) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table("shop", metadata, sa.Column("id", sa.Integer, primary_key=True))
    table, name = ("purchase", "title") if renamed else ("orders", "name")
    sa.Table(
        table,
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column(name, sa.String(20), nullable=False, unique=True, info={"rowcast": {"was": "name"}}),
        sa.Column("shop_id", sa.ForeignKey("shop.id")),
        info={"rowcast": {"was": "orders"} if renamed else True},
    )
    sa.Table(
        "line",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("order_id", sa.ForeignKey(f"{table}.id")),
    )
    return metadata


Statement = Callable[[Mapping[str, sa.Table]], sa.Executable]


class World:
    """A primary whose application renames a table."""

    def __init__(self, source: str, kafka: Broker, url: str) -> None:
        self._source, self._kafka, self._url = source, kafka, url
        self.primary = open_engine(url, "primary", pooled=False)
        Capture(models(renamed=False), source=source).create_outbox(self.primary)
        models(renamed=False).create_all(self.primary)

    def settings(self, replica_url: str = "sqlite://") -> Settings:
        found = settings_for(self._source, self._kafka.bootstrap_servers, replica_url, self._url)
        return found.model_copy(update={"relay": RelaySettings(poll_max_ms=10)})

    def write(self, metadata: sa.MetaData, *statements: Statement) -> None:
        """Execute statements in a new process of the application, each in a transaction, and publish the events."""
        engine = open_engine(self._url, "application", pooled=False)
        Capture(metadata, source=self._source).install(engine)
        for statement in statements:
            with engine.begin() as connection:
                connection.execute(statement(metadata.tables))
        engine.dispose()
        Relay(self.settings(), self.primary).run_once()

    def begin(self) -> None:
        orders = [{"id": n, "name": f"n{n}", "shop_id": 1} for n in range(1, 7)]
        self.write(
            models(renamed=False),
            lambda t: sa.insert(t["shop"]).values(id=1),
            lambda t: sa.insert(t["orders"]).values(orders),
            lambda t: sa.insert(t["line"]).values(id=1, order_id=1),
        )

    def go_on(self) -> None:
        """Publish changes under the former name that no replica applies before the renaming."""
        self.write(
            models(renamed=False),
            lambda t: sa.update(t["orders"]).where(t["orders"].c.id == 1).values(name="first"),
            lambda t: sa.delete(t["orders"]).where(t["orders"].c.id == 2),
            lambda t: sa.insert(t["orders"]).values(id=7, name="n7", shop_id=1),
        )

    def migrate(self) -> None:
        with self.primary.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE orders RENAME TO purchase")
            connection.exec_driver_sql("ALTER TABLE purchase RENAME name TO title")
        self.write(
            models(renamed=True),
            lambda t: sa.update(t["purchase"]).where(t["purchase"].c.id == 3).values(title="third"),
            lambda t: sa.delete(t["purchase"]).where(t["purchase"].c.id.in_([4, 7])),
            lambda t: sa.insert(t["purchase"]).values(id=2, title="again", shop_id=1),
            lambda t: sa.insert(t["line"]).values(id=2, order_id=2),
        )

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        return Database(self._url).rows(table, *columns)


@pytest.fixture(scope="module")
def world(kafka: Broker, new_lasting_database: NewDatabase) -> Iterator[World]:
    world = World(f"renamed-{uuid.uuid4().hex[:8]}", kafka, new_lasting_database("postgresql"))
    yield world
    world.primary.dispose()


@pytest.fixture(scope="module")
def replicas(world: World, new_lasting_database: NewDatabase) -> dict[str, Database]:
    """Let a replica of each engine follow the renaming, and make two later, from the topics alone."""
    urls = {engine: new_lasting_database(engine) for engine in ENGINES}
    world.begin()
    for url in urls.values():
        work_once(world.settings(url))
    world.go_on()
    world.migrate()
    urls |= {f"later {engine}": new_lasting_database(engine) for engine in ("sqlite", "mariadb")}
    for url in urls.values():
        work_once(world.settings(url))
    return {name: Database(url) for name, url in urls.items()}


@pytest.fixture(params=[*ENGINES, "later sqlite", "later mariadb"], scope="module")
def replica(request: pytest.FixtureRequest, replicas: dict[str, Database]) -> Database:
    return replicas[request.param]


def test_a_replica_has_the_table_under_its_new_name(replica: Database, world: World) -> None:
    assert replica.state() == "consistent"
    assert "orders" not in replica.tables()
    for table, columns in (("purchase", ("id", "title", "shop_id")), ("line", ("id", "order_id"))):
        assert replica.rows(table, *columns) == world.rows(table, *columns)
    assert [key["referred_table"] for key in replica.foreign_keys("purchase")] == ["shop"]
    assert [key["referred_table"] for key in replica.foreign_keys("line")] == ["purchase"]
    unique = [i["column_names"] for i in sa.inspect(replica.engine).get_indexes("purchase") if i["unique"]]
    assert unique == [["title"]]


def test_a_rebuild_and_verify_know_the_new_name(world: World, replicas: dict[str, Database]) -> None:
    settings = world.settings(replicas["postgresql"].engine.url.render_as_string(False))
    with running_thread(Relay(world.settings(), world.primary)):
        rebuild(settings, NAME, RebuildOptions(), stop=threading.Event())
        found = verify(settings, NAME)
    assert sorted((table.table, table.rows, table.differing) for table in found.tables) == [
        ("public.line", 2, 0), ("public.purchase", 5, 0), ("public.shop", 1, 0),
    ]  # fmt: skip
    assert "orders" not in replicas["postgresql"].tables()


def archived(replica: DirectReplica, table: str) -> list[tuple[int, int | None]]:
    """Return the columns id and n of a table in the schema archive."""
    wanted = sa.table(table, sa.column("id"), sa.column("n"), schema="archive")
    with replica.database.engine.connect() as connection:
        return sorted((row.id, row.n) for row in connection.execute(sa.select(wanted)))


BEFORE = shape("thing", column("n", nullable=False), column("code"), unique=[("code",)])
AFTER = replace(BEFORE, name="item", columns=(BEFORE.columns[0], column("n"), column("code")), was=("public.thing",))


@pytest.mark.parametrize("engine", ["mariadb", "sqlite"])
def test_a_worker_that_is_killed_before_it_records_the_new_name_goes_on(
    engine: str, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def kill(*_: object) -> None:
        raise KilledError

    with direct_replica(new_database(engine), BEFORE) as replica:
        replica.apply(("c", "thing", {"id": 1, "n": 1, "code": 1}))
        late = replica.change("c", "thing", {"id": 2, "n": 2, "code": 2})
        replica.add(AFTER)
        with monkeypatch.context() as patched:
            patched.setattr("rowcast.consumer.replica.table_records.TableRecords.rename", kill)
            with pytest.raises(KilledError):
                replica.restart()
        assert ("item" in replica.database.tables()) is (engine == "mariadb")
        replica.restart()
        newer = replica.change("u", "item", {"id": 1, "n": None, "code": 3})
        replica.apply_changes(late, replica.change("u", "item", {"id": 2, "n": 5, "code": 1}), newer)
        assert replica.rows("item", "id", "n", "code") == [(1, None, 3), (2, 5, 1)]
        # The source has gone back to the earlier release, which says nothing of a rename.
        replica.apply(("u", "thing", {"id": 1, "n": 7, "code": 3}))
        assert replica.rows("item", "id", "n") == [(1, 7), (2, 5)]
        # Back for good: the model says that the table was the other one.
        replica.add(replace(BEFORE, was=("public.item",)))
        replica.apply(("u", "thing", {"id": 1, "n": 8, "code": 4}))
        assert replica.rows("thing", "id", "n") == [(1, 8), (2, 5)]
        assert "item" not in replica.database.tables()


def test_a_table_that_the_worker_may_not_rename_stops_it(new_database: NewDatabase) -> None:
    with direct_replica(new_database("postgresql"), BEFORE, evolution="validate") as replica:
        moved = replace(AFTER, schema="archive", default_schema=False)
        replica.apply(("c", "thing", {"id": 1, "n": 1, "code": 1}))
        replica.add(moved)
        with pytest.raises(ConfigurationError, match=r"table public\.thing renamed to archive\.item") as raised:
            replica.restart()
        replica.database.execute(*str(raised.value).partition("again:\n")[2].split(";\n"))
        replica.restart(evolution="evolve")
        replica.apply(("c", "archive.item", {"id": 2, "n": None, "code": 2}))
        assert archived(replica, "item") == [(1, 1), (2, None)]
        # A table of somebody else has the next name.
        replica.database.execute("CREATE TABLE archive.next (id bigint PRIMARY KEY)")
        replica.add(replace(moved, name="next", was=("archive.item",)))
        with pytest.raises(ConfigurationError, match="Drop next if it has nothing to keep"):
            replica.restart()
        # Another key makes another table.
        replica.add(replace(moved, name="other", primary_key=("n",), was=("archive.item",)))
        replica.database.execute("DROP TABLE archive.next")
        replica.restart()
        assert archived(replica, "next") == [(1, 1), (2, None)]
        assert archived(replica, "other") == []


def test_letters_of_a_renamed_table_block_its_rows_under_the_present_name(new_database: NewDatabase) -> None:
    with direct_replica(new_database("sqlite"), BEFORE) as replica:
        with replica.database.engine.begin() as connection:
            event = SetAside(
                "7", ("topic", 0), 1, 1, "7", "public.thing", b'{"id":1}', "why", "Error", "TASK_PUT", True
            )
            add_letters(connection, "shop", [LetterEvent(event, ("letters", 0), 1, 1)])
        replica.add(AFTER)
        replica.restart()
        with replica.database.engine.connect() as connection:
            assert blocked_keys(connection, "shop") == {("public.item", b'{"id":1}')}
