"""Tables beyond a limit of the replica's engine, and tables with triggers, are named with the next step."""

from __future__ import annotations

import logging

import pytest

from fixtures.databases import NewDatabase
from rowcast.consumer import checks
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError
from servers import Broker
from support.kafka_source import Source, column, shape
from support.worker_runs import Database, settings_for, work_once

LEAVE_OUT = "Leave the table out with `tables`"
ITEM = shape("item", column("n"))


@pytest.fixture
def source(kafka: Broker, source_name: str) -> Source:
    return Source(kafka.bootstrap_servers, source_name)


def settings_of(source: Source, url: str) -> Settings:
    return settings_for(source.name, source.bootstrap, url)


@pytest.mark.parametrize(("engine", "count"), [("mariadb", 1_100), ("postgresql", 1_700), ("sqlite", 2_100)])
def test_a_table_with_too_many_columns_is_refused(
    source: Source, new_database: NewDatabase, engine: str, count: int
) -> None:
    source.add(shape("wide", *(column(f"c{n}") for n in range(count))))
    source.transaction(("c", "wide", {"id": 1} | {f"c{n}": n for n in range(count)}))
    with pytest.raises(ConfigurationError, match=rf"public.wide \({count + 1} columns\) cannot exist on") as refused:
        work_once(settings_of(source, new_database(engine)))
    assert LEAVE_OUT in str(refused.value)


@pytest.mark.parametrize("engine", ["mariadb", "sqlite"])
def test_columns_that_differ_only_in_case_are_refused(source: Source, new_database: NewDatabase, engine: str) -> None:
    source.add(shape("item", column("Name"), column("name")))
    source.transaction(("c", "item", {"id": 1, "Name": 1, "name": 2}))
    with pytest.raises(ConfigurationError, match=r"public.item .* cannot exist on the replica's engine") as refused:
        work_once(settings_of(source, new_database(engine)))
    assert LEAVE_OUT in str(refused.value)


@pytest.mark.parametrize("engine", ["mariadb", "postgresql"])
@pytest.mark.parametrize("is_table", [True, False], ids=["table", "column"])
def test_a_name_that_is_too_long_is_refused(
    source: Source, new_database: NewDatabase, engine: str, is_table: bool
) -> None:
    name = "n" * 65
    table = name if is_table else "item"
    source.add(shape(table, column("n" if is_table else name)))
    source.transaction(("c", table, {"id": 1, ("n" if is_table else name): 1}))
    with pytest.raises(ConfigurationError, match=f"public.{table}") as refused:
        work_once(settings_of(source, new_database(engine)))
    assert LEAVE_OUT in str(refused.value)


DROPPING = {
    "postgresql": (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$",
        "CREATE TRIGGER keep_out BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION refuse()",
    ),
    "sqlite": ("CREATE TRIGGER keep_out BEFORE INSERT ON item WHEN new.n = 2 BEGIN SELECT raise(IGNORE); END",),
}
CHANGING = {
    "mariadb": (
        "CREATE TRIGGER keep_out BEFORE INSERT ON item FOR EACH ROW SET new.n = 7",
        # The name of a trigger of rowcast's capture, as in a replica that is itself a source.
        "CREATE TRIGGER rowcast_insert_item AFTER INSERT ON item FOR EACH ROW SET @captured = 1",
    )
}


@pytest.mark.parametrize("engine", ["postgresql", "sqlite", "mariadb"])
def test_triggers_of_a_replicas_table_are_named(
    source: Source, new_database: NewDatabase, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = new_database(engine)
    settings, replica = settings_of(source, url), Database(url)
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    work_once(settings)
    replica.execute(*(DROPPING | CHANGING)[engine])
    source.transaction(("c", "item", {"id": 2, "n": 2}))
    with caplog.at_level(logging.WARNING):
        if engine in DROPPING:
            with pytest.raises(DataError, match="has written 0 of 1 rows, so a trigger or a rule"):
                work_once(settings)
            assert replica.rows("item") == [(1, 1)]
        else:
            work_once(settings)
    assert "the replica's table item has triggers (keep_out)" in caplog.text
    found = [finding.message for finding in checks.replicas(settings)]
    assert "table public.item has triggers, which may change rows: keep_out" in found
