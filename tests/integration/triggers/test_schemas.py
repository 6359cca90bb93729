"""Triggers name the schema of their table, and name the changes that they do not see."""

from __future__ import annotations

import random

import orjson
import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.producer import Capture
from rowcast.producer.triggers.install import install, triggers_on
from rowcast.producer.triggers.reflected_tables import ReflectedTables
from support.registry import Registry
from support.trigger_shop import plain_engine


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_each_tenants_rows_are_published_under_its_schema(new_database: NewDatabase, engine: str) -> None:
    primary = plain_engine(sa.make_url(new_database(engine)))
    metadata = sa.MetaData()
    item = sa.Table(
        "item", metadata, sa.Column("id", sa.Integer, primary_key=True), info={"rowcast": {"mode": "triggers"}}
    )
    capture = Capture(metadata, source="tenants")
    metadata.create_all(primary)
    tenants = [f"tenant_{random.randrange(10**9)}_{letter}" for letter in "ab"]
    try:
        with primary.begin() as connection:
            for tenant in tenants:
                connection.exec_driver_sql(f"CREATE SCHEMA {tenant}")
                connection.exec_driver_sql(f"CREATE TABLE {tenant}.item (id integer PRIMARY KEY)")
        for schema in (None, *tenants):
            with primary.begin() as connection:
                install(connection, *ReflectedTables().read(connection, [(schema, "item")]))
        use = "SET LOCAL search_path = {}" if engine == "postgresql" else "USE {}"
        capture.install(primary)
        for n, tenant in enumerate(tenants):
            with primary.connect() as connection:
                connection.exec_driver_sql(use.format(tenant))
                connection.exec_driver_sql(f"INSERT INTO item VALUES ({n})")
                connection.execute(item.insert().values(id=n + 5))
                connection.commit()
                connection.invalidate()
            options = {"schema_translate_map": {None: tenant}}
            with primary.connect().execution_options(**options) as connection, connection.begin():
                connection.execute(item.insert().values(id=n + 10))
        with primary.connect() as connection:
            lines = connection.exec_driver_sql("SELECT changes FROM rowcast_outbox ORDER BY id").scalars().all()
    finally:
        with primary.begin() as connection:
            for tenant in tenants:
                connection.exec_driver_sql(f"DROP SCHEMA {tenant} {'CASCADE' if engine == 'postgresql' else ''}")
        primary.dispose()
    changes = [orjson.loads(line) for line in lines]
    assert [(change["t"], change["k"]["id"]) for change in changes] == [
        (f"{tenant}.item", key) for n, tenant in enumerate(tenants) for key in (n, n + 5, n + 10)
    ]


def test_changes_that_call_no_trigger_on_postgresql_are_named(registry: Registry) -> None:
    registry.install()
    registry.execute(
        "CREATE TABLE pupil (school text) INHERITS (person)",
        "CREATE SUBSCRIPTION copy CONNECTION '' PUBLICATION p WITH (connect = false, slot_name = NONE)",
        "INSERT INTO pg_subscription_rel SELECT oid, 'person'::regclass, 'r', NULL FROM pg_subscription "
        "WHERE subname = 'copy'",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET session_replication_role = replica', "
        "current_database()); END $$",
        "CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (1)",
        "CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (1) TO (2)",
    )
    try:
        with registry.engine.connect() as connection:
            triggers = triggers_on(connection)
            assert list(triggers.unseen_changes("public", "person")) == [
                "statements that name a table that inherits from it, such as public.pupil",
                "rows that the subscription copy applies, because logical replication calls no such triggers",
                "changes by all roles, for which session_replication_role is set to replica",
            ]
            assert next(iter(triggers.unseen_changes("public", "part"))) == (
                "statements that name a partition, such as public.part_1 (2 in all)"
            )
    finally:
        registry.execute("DELETE FROM pg_subscription_rel", "DROP SUBSCRIPTION copy")
