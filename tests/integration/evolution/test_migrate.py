"""`rowcast migrate` shows what a replica lacks as DDL, and does it when it is asked."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.consumer.migration.migrate import Migration, migrate
from rowcast.consumer.migration.report import report
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.shape import PortableType
from servers import Broker
from support.kafka_source import Source, column, shape
from support.worker_runs import NAME, Database, running_worker, settings_for, work_once

CODE, LONG = PortableType("string", length=10), PortableType("string", length=40)
BEFORE = shape("thing", column("gone", nullable=False), column("code", CODE), unique=[("code",)])
AFTER = shape("thing", column("code", LONG), column("more"))
SHOP = shape("shop")


def migrated(settings: Settings, *drop: str, apply: bool = False) -> Migration:
    return migrate(settings, NAME, apply=apply, drop=drop, stop=threading.Event())


def columns(database: Database, table: str = "thing") -> list[str]:
    return [c["name"] for c in sa.inspect(database.engine).get_columns(table)]


@pytest.mark.parametrize("engine", ["mariadb", "sqlite"])
def test_a_replica_that_no_worker_may_change_follows_by_command(
    engine: str, kafka: Broker, source_name: str, new_database: NewDatabase
) -> None:
    url, source = new_database(engine), Source(kafka.bootstrap_servers, source_name)
    settings = settings_for(source_name, kafka.bootstrap_servers, url, evolution="validate")
    database = Database(url)
    source.add(BEFORE)
    source.transaction(("c", "thing", {"id": 1, "gone": 1, "code": "a"}))
    work_once(settings)
    assert migrated(settings).is_complete
    source.add(replace(AFTER, unique=(("more",),)), SHOP)
    source.transaction(("c", "thing", {"id": 2, "code": "a" * 20, "more": 5}), ("c", "shop", {"id": 1}))
    shown = migrated(settings)
    assert not shown.is_complete
    text = "\n".join(report(shown))
    for part in ("column more added", "NOT NULL of column gone dropped", "unique key (more) created", "table created"):
        assert part in text
    assert "kept: column gone. To drop it with its values: --drop public.thing.gone" in text
    with pytest.raises(ConfigurationError, match="no worker may change them"):
        work_once(settings)
    assert columns(database) == ["id", "gone", "code"]
    # Workers stand by meanwhile.
    assert migrated(settings, "public.thing.go*", apply=True).is_complete
    assert columns(database) == ["id", "code", "more"]
    assert migrated(settings).is_complete
    with running_worker(settings) as worker:
        worker.until(lambda progress: progress.lsn == source.lsn)
    assert database.rows("thing", "id", "code", "more") == [(1, "a", None), (2, "a" * 20, 5)]
    assert database.state() == "consistent"


def test_a_table_of_the_users_follows_by_command(kafka: Broker, source_name: str, new_database: NewDatabase) -> None:
    url, source = new_database("postgresql"), Source(kafka.bootstrap_servers, source_name)
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    database = Database(url)
    database.execute("CREATE TABLE thing (id bigint PRIMARY KEY, gone bigint NOT NULL, code varchar(10), mine text)")
    source.add(BEFORE)
    work_once(settings)
    source.add(AFTER)
    source.transaction(("c", "thing", {"id": 2, "code": "a" * 20, "more": 5}))
    with pytest.raises(ConfigurationError, match="narrower than the source's column"):
        work_once(settings)
    applied = migrated(settings, "*", apply=True)
    assert {what for table in applied.tables for what, _ in table.changes} >= {"NOT NULL of column gone dropped"}
    work_once(settings)
    assert database.rows("thing") == [(2, None, "a" * 20, None, 5)]


def test_what_a_worker_cannot_follow_names_the_rebuild(
    kafka: Broker, source_name: str, new_database: NewDatabase
) -> None:
    url, source = new_database("sqlite"), Source(kafka.bootstrap_servers, source_name)
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    with pytest.raises(ConfigurationError, match="there is no file"):
        migrated(settings)
    source.add(BEFORE)
    work_once(settings)
    source.add(shape("thing", column("code", "int64"), column("more")))
    shown = migrated(settings)
    assert not shown.is_complete
    assert f"rowcast rebuild {NAME}" in "\n".join(report(shown))
    source.add(SHOP)
    with pytest.raises(DataError, match="which the replica cannot follow"):
        migrated(settings, apply=True)
    assert "shop" not in Database(url).tables()
