"""Defaults, counters and keys of every kind become those of a replica on every engine."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import ENGINES
from rowcast.consumer.promotion.dialects.mysql import MySQLPromotion
from rowcast.consumer.promotion.promote import PromotionOptions, PromotionResult, promote
from rowcast.shared.config.settings import Settings
from rowcast.shared.tables.server_defaults import ServerDefault
from rowcast.shared.tables.shape import (
    ColumnShape,
    ForeignKeyShape,
    IdentityShape,
    IndexShape,
    PortableType,
    TableShape,
)
from servers import Broker
from support.kafka_source import Source, column, shape
from support.worker_runs import NAME, Database, settings_for, work_once


def promoted(settings: Settings, *shapes: TableShape, rows: dict[str, list[dict[str, Any]]]) -> PromotionResult:
    """Publish rows, apply them, and promote the replica."""
    source = Source(str(settings.kafka["bootstrap.servers"]), settings.source)
    source.add(*shapes)
    source.transaction(*(("c", name, row) for name, of_table in rows.items() for row in of_table))
    work_once(settings)
    return promote(settings, NAME, PromotionOptions(), stop=threading.Event())


def with_default(name: str, type_: str | PortableType, kind: str, value: str = "") -> ColumnShape:
    return replace(column(name, type_), default=ServerDefault(kind, value))


DEFAULTS = (
    with_default("number", "int32", "number", "-5"),
    with_default("number_as_text", "int64", "string", "12"),
    with_default("truth_as_number", "boolean", "number", "1"),
    with_default("truth_as_text", "boolean", "string", "false"),
    with_default("truth", "boolean", "boolean", "true"),
    with_default("exact", PortableType("decimal", precision=10, scale=2), "number", "1.50"),
    with_default("short", PortableType("string", length=20), "string", "a'b\\c%d:e"),
    with_default("long", "text", "string", "a'b\\c%d:e"),
    with_default("digits", PortableType("string", length=5), "number", "7"),
    with_default("document", "json", "string", "{}"),
    with_default("day", "date", "today"),
    with_default("day_of_now", "date", "now"),
    with_default("moment", "timestamp", "utc_now"),
    with_default("moment_with_zone", "timestamptz", "now"),
    with_default("token", "uuid", "uuid"),
    with_default("odd", "int32", "other", "random_number()"),
)


@pytest.mark.parametrize(
    ("source_engine", "engine"), [*(("elsewhere", engine) for engine in ENGINES), ("sqlite", "postgresql")]
)
def test_every_default_that_an_engine_has_fills_a_new_row(
    source_engine: str, engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    url = new_database(engine)
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    table = shape("items", *DEFAULTS, engine=source_engine)
    row: dict[str, Any] = {"id": 1} | dict.fromkeys((c.name for c in DEFAULTS), None)
    notes = promoted(settings, table, rows={"items": [row]}).notes
    left = {note.split(" ")[0] for note in notes if " has the default " in note}
    assert left == {"public.items.odd"} | ({"public.items.token"} if engine == "sqlite" else set())
    replica = Database(url)
    replica.execute("INSERT INTO items (id) VALUES (2)")
    with replica.engine.connect() as connection:
        found = sa.Table("items", sa.MetaData(), autoload_with=connection)
        new = dict(connection.execute(sa.select(found).where(found.c.id == 2)).mappings().one())
    assert (new["number"], new["number_as_text"], Decimal(new["exact"])) == (-5, 12, Decimal("1.50"))
    assert (bool(new["truth_as_number"]), bool(new["truth_as_text"]), bool(new["truth"])) == (True, False, True)
    assert (new["short"], new["long"], new["digits"]) == ("a'b\\c%d:e", "a'b\\c%d:e", "7")
    assert new["document"] in ("{}", {})
    assert abs(new["day"] - date.today()) <= timedelta(days=1)
    assert abs(new["day_of_now"] - date.today()) <= timedelta(days=1)
    now = datetime.now(UTC)
    for name in ("moment", "moment_with_zone"):
        moment = new[name]
        assert abs((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now) < timedelta(minutes=1), name
    if engine != "sqlite":
        assert uuid.UUID(str(new["token"]))
    assert new["odd"] is None


COUNTERS = {
    "plain": IdentityShape(),
    "always": IdentityShape(always=True, start=1000, increment=10),
    "named": IdentityShape(sequence="Odd % name", start=50, increment=5),
}


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
def test_the_next_key_is_above_the_greatest_and_an_empty_table_begins_at_the_start(
    engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    """Zero and negative keys are rows like any others."""
    settings = settings_for(source_name, kafka.bootstrap_servers, url := new_database(engine))
    shapes, rows = [], {}
    for name, identity in COUNTERS.items():
        key = replace(column("id", "int64", nullable=False), identity=identity)
        shapes.append(shape(name, key, column("n"), engine="postgresql"))
        if identity.sequence is not None:
            key = replace(key, identity=replace(identity, sequence="other"))
        shapes.append(shape(f"{name}_empty", key, column("n"), engine="postgresql"))
        rows[name] = [{"id": n, "n": n} for n in (-1, 0, 2000)]
    promoted(settings, *shapes, rows=rows)
    replica = Database(url)
    for name, identity in COUNTERS.items():
        replica.execute(f"INSERT INTO {name} (n) VALUES (1)", f"INSERT INTO {name}_empty (n) VALUES (1)")
        has_steps = engine == "postgresql" or (engine == "mariadb" and identity.sequence is not None)
        step = (identity.increment or 1) if has_steps else 1
        start = 1 if engine == "sqlite" else identity.start or 1
        assert sorted(key for key, _ in replica.rows(name)) == [-1, 0, 2000, 2000 + step], name
        assert replica.rows(f"{name}_empty") == [(start, 1)], name


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
def test_a_counter_in_a_composite_key_works_or_is_named(
    engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    """A composite key whose second column is numbered, as PostgreSQL allows it."""
    settings = settings_for(source_name, kafka.bootstrap_servers, url := new_database(engine))
    number = replace(column("number", "int32", nullable=False), identity=IdentityShape())
    table = shape("lines", column("orders", "int32", nullable=False), number, key=("orders", "number"),
                  engine="postgresql")  # fmt: skip
    notes = promoted(settings, table, rows={"lines": [{"orders": 1, "number": 7}]}).notes
    if engine == "postgresql":
        Database(url).execute("INSERT INTO lines (orders) VALUES (2)")
        assert Database(url).rows("lines") == [(1, 7), (2, 8)]
    else:
        assert any("public.lines.number" in note for note in notes)


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
def test_views_and_rows_of_children_survive(
    engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    settings = settings_for(source_name, kafka.bootstrap_servers, url := new_database(engine))
    key = replace(column("id", "int64", nullable=False), identity=IdentityShape())
    parents = shape("parents", key, with_default("n", "int32", "number", "3"), engine="sqlite")
    children = shape("children", key, column("parent_id"), refers=[("parent_id", "parents")], engine="sqlite")
    keys = tuple(replace(k, on_delete="CASCADE") for k in children.foreign_keys)
    children = replace(children, foreign_keys=keys, columns=(*children.columns[:1], *children.columns[1:]))
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(parents, children)
    source.transaction(("c", "parents", {"id": 1, "n": 1}), ("c", "children", {"id": 1, "parent_id": 1}))
    work_once(settings)
    replica = Database(url)
    replica.execute("CREATE VIEW seen AS SELECT id, n FROM parents")
    promote(settings, NAME, PromotionOptions(), stop=threading.Event())
    replica.execute("INSERT INTO parents (id) VALUES (2)")
    assert replica.rows("seen") == [(1, 1), (2, 3)]
    assert replica.rows("children") == [(1, 1)]
    with replica.engine.connect() as connection:
        if engine == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        connection.exec_driver_sql("DELETE FROM parents WHERE id = 1")
        connection.commit()
    assert replica.rows("children") == []


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
def test_a_foreign_key_that_a_person_had_to_drop_is_created_again(
    engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    settings = settings_for(source_name, kafka.bootstrap_servers, url := new_database(engine))
    key = replace(column("id", "int64", nullable=False), identity=IdentityShape())
    parents = shape("parents", key, engine="sqlite")
    children = shape("children", key, column("parent_id"), refers=[("parent_id", "parents")], engine="sqlite")
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(parents, children)
    source.transaction(("c", "parents", {"id": 1}), ("c", "children", {"id": 1, "parent_id": 1}))
    work_once(settings)
    replica = Database(url)
    replica.execute("UPDATE rowcast_replica SET state = 'promoting'")
    with replica.engine.connect() as connection:
        name = sa.inspect(connection).get_foreign_keys("children")[0]["name"]
    if engine == "sqlite":
        replica.execute("DROP TABLE children", "CREATE TABLE children (id INTEGER PRIMARY KEY, parent_id BIGINT)")
    else:
        replica.execute(f"ALTER TABLE children DROP {'CONSTRAINT' if engine == 'postgresql' else 'FOREIGN KEY'} {name}")
    promote(settings, NAME, PromotionOptions(), stop=threading.Event())
    keys = sa.inspect(replica.engine).get_foreign_keys("children")
    assert [(k["constrained_columns"], k["referred_table"]) for k in keys] == [(["parent_id"], "parents")]


@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_a_server_that_refuses_auto_increment_for_a_referred_column_gets_the_foreign_key_again(
    engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some releases of MariaDB refuse it always (MDEV-32018). With checks of foreign keys every server does."""
    monkeypatch.setattr(MySQLPromotion, "prepare", lambda *_: None)
    settings = settings_for(source_name, kafka.bootstrap_servers, url := new_database(engine))
    key = replace(column("id", "int64", nullable=False), identity=IdentityShape())
    people = shape("people", key, column("boss_id"), refers=[("boss_id", "people")], engine="sqlite")
    pets = shape("pets", key, column("owner_id"), refers=[("owner_id", "people")], engine="sqlite")
    pets = replace(pets, foreign_keys=tuple(replace(k, on_delete="CASCADE") for k in pets.foreign_keys))
    rows: dict[str, list[dict[str, Any]]] = {
        "people": [{"id": 1, "boss_id": None}, {"id": 2, "boss_id": 1}],
        "pets": [{"id": 1, "owner_id": 2}],
    }
    result = promoted(settings, people, pets, rows=rows)
    assert any("DROP FOREIGN KEY" in statement and "people" in statement for statement in result.statements)
    replica = Database(url)
    replica.execute("INSERT INTO people () VALUES ()")
    assert replica.rows("people") == [(1, None), (2, 1), (3, None)]
    inspector = sa.inspect(replica.engine)
    assert [k["constrained_columns"] for k in inspector.get_foreign_keys("people")] == [["boss_id"]]
    assert [k["options"] for k in inspector.get_foreign_keys("pets")] == [{"ondelete": "CASCADE"}]


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
def test_odd_names_and_other_schemas_are_quoted(
    engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    settings = settings_for(source_name, kafka.bootstrap_servers, url := new_database(engine))
    odd = "Od%d n'a;m:e"
    key = replace(column("id", "int32", nullable=False), identity=IdentityShape())
    value = replace(column(odd, "int32"), default=ServerDefault("number", "3"))
    colour = PortableType("enum", values=("it's", "100%"), native='"Co%lour"')
    table = shape("table", key, value, column("colour", colour), schema="app", default_schema=False,
                  engine="postgresql")  # fmt: skip
    children = shape(odd[:3], key, column(odd, "int32"), schema="app", default_schema=False, engine="postgresql")
    children = replace(
        children, foreign_keys=(ForeignKeyShape((odd,), "app", "table", ("id",), on_delete="CASCADE"),),
        indexes=(IndexShape(f"i {odd}", (odd,)),),
    )  # fmt: skip
    row = {"id": 1, odd: 1, "colour": "100%"}
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(table, children)
    source.transaction(("c", "app.table", row), ("c", f"app.{odd[:3]}", {"id": 1, odd: 1}))
    work_once(settings)
    promote(settings, NAME, PromotionOptions(), stop=threading.Event())
    schema, prefix = ("app", "") if engine == "postgresql" else (None, "app_")
    with Database(url).engine.connect() as connection:
        found = sa.Table(f"{prefix}table", sa.MetaData(), autoload_with=connection, schema=schema)
        connection.execute(sa.insert(found), {"colour": "it's"})
        assert [tuple(found_row) for found_row in connection.execute(sa.select(found).order_by("id"))] == [
            (1, 1, "100%"), (2, 3, "it's"),
        ]  # fmt: skip
    inspector = sa.inspect(Database(url).engine)
    assert f"i {odd}" in {index["name"] for index in inspector.get_indexes(f"{prefix}{odd[:3]}", schema)}
