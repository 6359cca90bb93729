"""``rowcast check`` names the columns whose type may have values beyond the limits of a replica's engine."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from fixtures.databases import NewDatabase
from rowcast.consumer.checks.replicas import replicas
from rowcast.consumer.replica.type_limits import type_limits
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.tables.type_mapping import shape_of
from support.fidelity import types_mariadb, types_postgresql, types_sqlite
from support.worker_runs import Database, Primary, settings_for


def table() -> sa.Table:
    return sa.Table(
        "thing",
        sa.MetaData(),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("real", sa.Double),
        sa.Column("price", sa.Numeric(12, 2)),
        sa.Column("any", sa.Numeric),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("clock", sa.Time),
        sa.Column("number", sa.BigInteger),
        sa.Column("plain_id", sa.Uuid(native_uuid=False)),
    )


def found(primary_url: str, replica_url: str) -> list[Finding]:
    settings = settings_for("shop", "127.0.0.1:1", replica_url, primary_url)
    return list(replicas(settings))


def not_held(findings: list[Finding]) -> dict[str, str]:
    """Map each kind of unsupported value to the columns that may contain the value."""
    parts = [f.message.removeprefix("cannot hold ").partition(": ") for f in findings if "cannot hold" in f.message]
    assert all(f.verdict is Verdict.warning for f in findings if "cannot hold" in f.message)
    return {what: columns for what, _, columns in parts}


def test_check_names_what_mariadb_cannot_hold_of_postgresql(new_database: NewDatabase, postgresql: object) -> None:
    url = new_database("postgresql")
    Primary(url, table().metadata)
    assert not_held(found(url, new_database("mariadb"))) == {
        "texts longer than the column of the key": "public.thing.name",
        "NaN": "public.thing.real, public.thing.price",
        "infinite numbers": "public.thing.real",
        "infinity, and years before 1 or after 9999": "public.thing.at",
    }


def test_check_names_what_postgresql_cannot_hold_of_mariadb(new_database: NewDatabase, mariadb: object) -> None:
    url = new_database("mariadb")
    other = table()
    other.c.name.type = sa.String(40)
    Primary(url, other.metadata)
    schema = sa.make_url(url).database
    assert not_held(found(url, new_database("postgresql"))) == {
        "texts with a NUL character": f"{schema}.thing.name",
        "dates whose month or day is 0": f"{schema}.thing.at",
        "times below 0, or of 24 hours and more": f"{schema}.thing.clock",
    }


def test_check_names_the_types_that_a_replica_lacks(new_database: NewDatabase) -> None:
    url = new_database("postgresql")
    Database(url).execute("CREATE EXTENSION hstore")
    store = sa.Table(
        "thing",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("store", postgresql.HSTORE),
        sa.Column("stores", sa.ARRAY(postgresql.HSTORE)),
        sa.Column("net", postgresql.INET),
        sa.Column("bits", postgresql.BIT(8)),
    )
    Primary(url, store.metadata)
    other = new_database("postgresql")
    missing = [f for f in found(url, other) if f.verdict is Verdict.missing]
    assert [f.message for f in missing] == [
        "there is no type HSTORE, which public.thing.store, public.thing.stores has"
    ]
    Database(other).execute("CREATE EXTENSION hstore")
    assert not [f for f in found(url, other) if f.verdict is Verdict.missing]


def test_an_engine_holds_all_of_its_own() -> None:
    for module, dialect in (
        (types_postgresql, sa.make_url("postgresql+psycopg://").get_dialect()()),
        (types_mariadb, sa.make_url("mysql+pymysql://").get_dialect()()),
        (types_sqlite, sa.make_url("sqlite://").get_dialect()()),
    ):
        shapes = [shape_of(family.table(sa.MetaData()), dialect, "main") for family in module.families()]
        assert type_limits(shapes, dialect) == {}
