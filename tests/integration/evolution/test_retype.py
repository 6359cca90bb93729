"""A worker stops at a table with another type or key, and the rebuild that its error names leads on."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.consumer.rebuild import retyped_tables
from rowcast.consumer.rebuild.options import RebuildOptions
from rowcast.consumer.rebuild.rebuild import rebuild
from rowcast.consumer.replica.evolution.shape_changes import RetypedTablesError
from rowcast.consumer.worker.progress import WorkerProgress
from rowcast.producer import Capture
from rowcast.producer.relay import Relay
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError, DataError
from servers import Broker
from support.direct_replica import direct_replica
from support.kafka_source import column, shape
from support.relay.threads import running_thread
from support.worker_runs import NAME, Database, settings_for, work_once


def models(amount: Any, *, key: bool = False) -> sa.MetaData:
    metadata = sa.MetaData()
    sa.Table("shop", metadata, sa.Column("id", sa.Integer, primary_key=True))
    sa.Table(
        "item",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("amount", amount, primary_key=key),
        sa.Column("shop_id", sa.ForeignKey("shop.id")),
    )
    return metadata


class World:
    """A primary, whose application has one release after another, and a replica."""

    def __init__(self, source: str, kafka: Broker, url: str, replica_url: str, **options: Any) -> None:
        self.source, self._url = source, url
        settings = settings_for(source, kafka.bootstrap_servers, replica_url, url, **options)
        self.settings = settings.model_copy(update={"relay": RelaySettings(poll_max_ms=10)})
        self.primary, self.replica = open_engine(url, "primary", pooled=False), Database(replica_url)

    def create(self, metadata: sa.MetaData) -> None:
        Capture(metadata, source=self.source).create_outbox(self.primary)
        metadata.create_all(self.primary)

    def write(self, metadata: sa.MetaData, number: int, amount: object) -> None:
        """Insert a shop and an item in a new process of the application, and publish both."""
        engine = open_engine(self._url, "application", pooled=False)
        Capture(metadata, source=self.source).install(engine)
        with engine.begin() as connection:
            connection.execute(sa.insert(metadata.tables["shop"]), {"id": number})
            row = {"id": number, "amount": amount, "shop_id": number}
            connection.execute(sa.insert(metadata.tables["item"]), row)
        engine.dispose()
        Relay(self.settings, self.primary).run_once()

    def migrate(self, kind: str) -> sa.MetaData:
        """Change the type of a column or the primary key. Return the models of the next release."""
        change = _NEW_TYPE if kind == "type" else _NEW_KEY
        with self.primary.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE item {change}")
        return models(sa.String(20)) if kind == "type" else models(sa.Integer(), key=True)


_NEW_TYPE = "ALTER amount TYPE varchar(20) USING '#' || amount"
_NEW_KEY = "DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (id, amount)"


@pytest.mark.parametrize(
    ("kind", "engine"), [("type", "postgresql"), pytest.param("key", "sqlite", marks=pytest.mark.only_in_campaigns)]
)
def test_the_rebuild_that_the_error_names_leads_on(
    engine: str, kind: str, kafka: Broker, source_name: str, new_database: NewDatabase
) -> None:
    world = World(source_name, kafka, new_database("postgresql"), new_database(engine))
    before = models(sa.Integer())
    world.create(before)
    world.write(before, 1, 1)
    work_once(world.settings)
    world.write(world.migrate(kind), 2, "x" if kind == "type" else 2)
    with pytest.raises(DataError, match=rf"rowcast rebuild {NAME} --snapshot"):
        work_once(world.settings)
    with running_thread(Relay(world.settings, world.primary)):
        rebuild(world.settings, NAME, RebuildOptions(with_snapshot=True), stop=threading.Event())
        work_once(world.settings)
    assert world.replica.state() == "consistent"
    assert world.replica.rows("item", "amount") == ([("#1",), ("x",)] if kind == "type" else [(1,), (2,)])
    assert world.replica.rows("shop", "id") == [(1,), (2,)]


@pytest.mark.parametrize(("kind", "engine"), [("type", "postgresql"), ("key", "mariadb"), ("key", "sqlite")])
def test_a_worker_rebuilds_the_table_alone_and_goes_on_after_a_kill(
    engine: str, kind: str, kafka: Broker, source_name: str, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def kill(*_: object) -> None:
        raise KilledError

    world = World(source_name, kafka, new_database("postgresql"), new_database(engine), on_retype="rebuild")
    before = models(sa.Integer())
    world.create(before)
    world.write(before, 1, 1)
    work_once(world.settings)
    # Not applied before the migration. Only the snapshot says what became of the row.
    world.write(before, 2, 2)
    after = world.migrate(kind)
    world.write(after, 3, "x" if kind == "type" else 3)
    replica = world.replica
    with running_thread(Relay(world.settings, world.primary)):
        with monkeypatch.context() as patched:
            patched.setattr("rowcast.consumer.rebuild.rebuild.TableSwap.try_to_swap", kill)
            with pytest.raises(KilledError):
                work_once(world.settings)
        assert replica.rows("item", "id") == [(1,)]
        work_once(world.settings)
        world.write(after, 4, "y" if kind == "type" else 4)
        work_once(world.settings)
    assert replica.state() == "consistent"
    amounts = ["#1", "#2", "x", "y"] if kind == "type" else [1, 2, 3, 4]
    assert replica.rows("item", "id", "amount") == list(enumerate(amounts, 1))
    assert replica.rows("shop", "id") == [(n,) for n in range(1, 5)]
    assert [key["referred_table"] for key in replica.foreign_keys("item")] == ["shop"]
    assert not [name for name in replica.tables() if "fresh" in name or "old" in name]


def test_a_new_replica_takes_no_events_of_a_former_key(new_database: NewDatabase) -> None:
    """An update of such a row under the new key would leave the row of the former key behind."""
    item = shape("item", column("amount", nullable=False))
    with direct_replica(new_database("sqlite")) as replica:
        replica.add(item)
        early = replica.change("c", "item", {"id": 1, "amount": 1})
        replica.begin(shape("item", column("amount", nullable=False), key=("id", "amount")))
        with pytest.raises(RetypedTablesError, match=r"events with the primary key \(id\)") as raised:
            replica.apply_changes(early)
        assert raised.value.tables == {"public.item"}
        assert replica.rows("item") == []


def test_a_rebuild_that_does_not_help_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    rebuilt: list[RebuildOptions] = []
    monkeypatch.setattr(retyped_tables, "rebuild", lambda _, __, options, **___: rebuilt.append(options))
    settings = settings_for("shop", "memory", "sqlite://", "sqlite://", on_retype="rebuild")

    def work() -> WorkerProgress:
        raise RetypedTablesError(f"table {min(len(rebuilt), 2)} has changed", ["public.item"])

    with pytest.raises(RetypedTablesError, match="table 2 has changed"):
        retyped_tables.run_rebuilding(settings, NAME, work, threading.Event())
    assert [options.tables for options in rebuilt] == [("public.item",)] * 3
    with pytest.raises(ConfigurationError, match=r"\[primary\]"):
        retyped_tables.run_rebuilding(settings.model_copy(update={"primary": None}), NAME, work, threading.Event())
