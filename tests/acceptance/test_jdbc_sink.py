"""Let Debezium's JDBC sink, under Kafka Connect, apply a relay's topics, and compare every value."""

from __future__ import annotations

import datetime as dt
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from fixtures.databases import NewDatabase
from rowcast.producer import Capture
from rowcast.producer.relay.embedded import run_relay
from rowcast.shared.config.database_settings import PrimarySettings
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.settings import Settings
from servers import Broker, Connect

metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("small", sa.SmallInteger),
    sa.Column("whole", sa.Integer),
    sa.Column("flag", sa.Boolean),
    sa.Column("real", sa.Double),
    sa.Column("money", sa.Numeric(30, 2), nullable=False),
    sa.Column("name", sa.String(40)),
    sa.Column("body", sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")),
    sa.Column("mood", sa.Enum("glad", "sad, 'very'", native_enum=False, length=20)),
    sa.Column("day", sa.Date),
    sa.Column("clock", sa.Time().with_variant(mysql.TIME(fsp=6), "mysql", "mariadb")),
    sa.Column("at", sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")),
    sa.Column("zoned", sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")),
    sa.Column("data", sa.LargeBinary),
    sa.Column("doc", sa.JSON(none_as_null=True)),
    sa.Column("token", sa.Uuid),
)
pairs = sa.Table(
    "pairs",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("amount", sa.Numeric(9, 3), primary_key=True),
    sa.Column("at", sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")),
)
TABLES = (things, pairs)

only_postgresql = sa.MetaData()
special = sa.Table(
    "special",
    only_postgresql,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("any_scale", sa.Numeric),
    sa.Column("docb", postgresql.JSONB),
    sa.Column("numbers", sa.ARRAY(sa.Integer)),
    sa.Column("words", sa.ARRAY(sa.Text)),
    sa.Column("single", sa.REAL),
)

FULL: dict[str, Any] = {
    "small": -(2**15),
    "whole": 2**31 - 1,
    "flag": True,
    "real": 0.1,
    "money": Decimal("1234567890123456789012345678.91"),
    "name": "grün, \"quoted\" 'x' \\ 😀",
    "body": '{"schema":1,"payload":{"x":1}}\n',
    "mood": "sad, 'very'",
    "day": dt.date(1969, 7, 20),
    "clock": dt.time(23, 59, 59, 999999),
    "at": dt.datetime(9999, 12, 31, 23, 59, 59, 999999),
    "zoned": dt.datetime(2026, 10, 25, 0, 30, 0, 1, tzinfo=dt.UTC),
    "data": bytes(range(256)),
    "doc": {"b": [1, 2.5, None], "a": "ü"},
    "token": uuid.UUID("8f14e45f-ceea-467f-ab1e-27f3f1d2c0aa"),
}
OTHER: dict[str, Any] = FULL | {
    "small": 0,
    "flag": False,
    "real": -1.7976931348623157e308,
    "money": Decimal("-0.01"),
    "name": "",
    "day": dt.date(2000, 2, 29),
    "clock": dt.time(0),
    "at": dt.datetime(1582, 10, 10, 1, 2, 3, 400),
    "data": b"",
}
EMPTY: dict[str, Any] = dict.fromkeys(FULL) | {"money": Decimal(0)}


def rows(engine: sa.Engine, table: sa.Table) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        found = connection.execute(sa.select(table).order_by(*table.primary_key)).all()
    return [tuple(v.replace(tzinfo=None) if isinstance(v, dt.datetime) else v for v in row) for row in found]


def jdbc(engine: sa.Engine) -> dict[str, str]:
    url = engine.url
    kind = "postgresql" if engine.dialect.name == "postgresql" else "mariadb"
    return {
        "connection.url": f"jdbc:{kind}://{url.host}:{url.port}/{url.database}",
        "connection.username": url.username or "",
        "connection.password": url.password or "",
    }


class Sink:
    """Run a sink connector that applies the topics of tables to a database."""

    def __init__(self, connect: Connect, source: str, engine: sa.Engine, *tables: sa.Table) -> None:
        self._connect = connect
        self.name = f"{source}-{engine.url.database}"
        self.engine = engine
        connect.put(
            self.name,
            {
                "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
                "tasks.max": "1",
                "topics": ",".join(f"{source}.public.{table.name}" for table in tables),
                # Name each table after the last part of its topic.
                "collection.name.format": "${source.table}",
                "insert.mode": "upsert",
                "delete.enabled": "true",
                "primary.key.mode": "record_key",
                "schema.evolution": "basic",
                # The name of a column may be a reserved word of SQL.
                "quote.identifiers": "true",
                "key.converter.schemas.enable": "true",
                "value.converter.schemas.enable": "true",
                "consumer.override.isolation.level": "read_committed",
                **jdbc(engine),
            },
        )

    def wait_until_equal(self, primary: sa.Engine, *tables: sa.Table) -> None:
        deadline = time.monotonic() + 60
        for table in tables:
            expected = rows(primary, table)
            while (found := self._rows(table)) != expected:
                self._connect.check(self.name)
                assert time.monotonic() < deadline, f"{table.name}:\n{found}\ninstead of\n{expected}"
                time.sleep(0.1)

    def _rows(self, table: sa.Table) -> list[tuple[Any, ...]] | None:
        return rows(self.engine, table) if sa.inspect(self.engine).has_table(table.name) else None

    def drop(self) -> None:
        self._connect.drop(self.name)


class Source:
    """Hold an application's database, and a relay that publishes with schemas."""

    def __init__(self, kafka: Broker, url: str, name: str, tables: sa.MetaData) -> None:
        self.engine = sa.create_engine(url)
        self.capture = Capture(tables, source=name)
        self.capture.install(self.engine)
        tables.create_all(self.engine)
        self._settings = Settings(
            source=name,
            kafka={"bootstrap.servers": kafka.bootstrap_servers},
            primary=PrimarySettings(url=url),
            relay=RelaySettings(format="json-schema"),
        )

    def commit(self, *statements: sa.Executable) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)

    def publish(self) -> None:
        run_relay(self._settings, once=True, stop=threading.Event())


@contextmanager
def source_of(kafka: Broker, url: str, name: str, tables: sa.MetaData) -> Iterator[Source]:
    source = Source(kafka, url, name, tables)
    try:
        yield source
    finally:
        source.capture.uninstall(source.engine)
        source.engine.dispose()


@pytest.mark.parametrize("replica", ["postgresql", "mariadb"])
def test_the_sink_applies_inserts_updates_deletes_and_changed_keys(
    replica: str, kafka: Broker, connect: Connect, new_database: NewDatabase, source_name: str
) -> None:
    """The sink writes to the application's own tables, and the application's own models read the rows."""
    copy = sa.create_engine(new_database(replica))
    metadata.create_all(copy, tables=TABLES)
    with source_of(kafka, new_database("postgresql"), source_name, metadata) as source:
        source.commit(
            sa.insert(things).values([{"id": 1, **FULL}, {"id": 2, **EMPTY}, {"id": 2**63 - 1, **FULL}]),
            sa.insert(pairs).values([{"day": dt.date(2026, 11, n), "amount": Decimal(n) / 8} for n in range(1, 5)]),
        )
        source.publish()
        sink = Sink(connect, source_name, copy, *TABLES)
        sink.wait_until_equal(source.engine, *TABLES)

        source.commit(
            sa.update(things).where(things.c.id == 1).values(OTHER),
            sa.update(things).where(things.c.id == 2).values(FULL),
            sa.delete(things).where(things.c.id == 2**63 - 1),
            sa.update(pairs).where(pairs.c.day == dt.date(2026, 11, 1)).values(at=FULL["at"]),
            sa.delete(pairs).where(pairs.c.day == dt.date(2026, 11, 2)),
            sa.update(pairs).where(pairs.c.day == dt.date(2026, 11, 3)).values(amount=Decimal("-999999.999")),
        )
        source.commit(sa.update(things).where(things.c.id == 2).values(EMPTY | {"id": 3}))
        source.publish()
        sink.wait_until_equal(source.engine, *TABLES)
        sink.drop()
    assert [row[0] for row in rows(copy, things)] == [1, 3]
    assert [row[1] for row in rows(copy, pairs)] == [Decimal("0.125"), Decimal("-999999.999"), Decimal("0.5")]
    copy.dispose()


def test_the_sink_makes_tables_of_fitting_types_by_itself(
    kafka: Broker, connect: Connect, new_database: NewDatabase, source_name: str
) -> None:
    """The first row is older than the capture, and a snapshot publishes the row."""
    copy, url = sa.create_engine(new_database("postgresql")), new_database("postgresql")
    before = sa.create_engine(url)
    with before.begin() as connection:
        things.create(connection)
        connection.execute(sa.insert(things).values([{"id": 1, **FULL}]))
    before.dispose()
    with source_of(kafka, url, source_name, metadata) as source:
        source.commit(sa.insert(things).values([{"id": 2, **EMPTY}]))
        source.publish()
        sink = Sink(connect, source_name, copy, things)
        sink.wait_until_equal(source.engine, things)
        sink.drop()
    made = {c["name"]: c["type"].compile(dialect=copy.dialect) for c in sa.inspect(copy).get_columns("things")}
    copy.dispose()
    assert made == {
        "id": "BIGINT",
        "small": "SMALLINT",
        "whole": "INTEGER",
        "flag": "BOOLEAN",
        "real": "DOUBLE PRECISION",
        "money": "NUMERIC(30, 2)",
        "name": "TEXT",
        "body": "TEXT",
        "mood": "TEXT",
        "day": "DATE",
        "clock": "TIME(6) WITHOUT TIME ZONE",
        "at": "TIMESTAMP(6) WITHOUT TIME ZONE",
        "zoned": "TIMESTAMP(6) WITH TIME ZONE",
        "data": "BYTEA",
        "doc": "JSON",
        "token": "UUID",
    }


def test_the_sink_takes_postgresqls_own_types(
    kafka: Broker, connect: Connect, new_database: NewDatabase, source_name: str
) -> None:
    copy = sa.create_engine(new_database("postgresql"))
    only_postgresql.create_all(copy, tables=[special])
    with source_of(kafka, new_database("postgresql"), source_name, only_postgresql) as source:
        values = {"docb": {"a": 1}, "numbers": [1, None, 3], "words": ["a,b", None, '"'], "single": 0.1}
        source.commit(
            sa.insert(special).values({"id": 1, "any_scale": Decimal("12345678901234567890.123456789"), **values}),
            sa.insert(special).values({"id": 2, "any_scale": Decimal("-1E-20"), "numbers": []}),
        )
        source.publish()
        sink = Sink(connect, source_name, copy, special)
        sink.wait_until_equal(source.engine, special)
        sink.drop()
    copy.dispose()
