"""Let a worker apply what Debezium's PostgreSQL source, under Kafka Connect, writes, and compare every value."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from servers import Broker, Connect
from support.source_connector import connector, connector_settings, held
from support.worker_runs import NAME, Database, running_worker

TABLES = """
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE customer (id bigint PRIMARY KEY, email varchar(40) NOT NULL UNIQUE);
    CREATE TABLE orders (
        id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customer, note text NOT NULL,
        amount numeric(10, 2), any_scale numeric, at timestamp, at3 timestamp(3), zoned timestamptz, day date,
        clock time, clock3 time(3), zoned_clock timetz, wait interval, data bytea, token uuid, doc json, docb jsonb,
        flag boolean, small smallint, single real, number double precision, code char(5), feeling mood, bits bit(3),
        numbers int[], words text[], days date[], address inet, at_once int4range
    );
    ALTER TABLE orders ALTER note SET STORAGE EXTERNAL;
    CREATE TABLE pair (a int, b varchar(10), note text, PRIMARY KEY (b, a));
"""
VALUES = """
    12.50, 1234567890.12345, '2026-11-21 10:11:12.123456', '2026-11-21 10:11:12.123', '2026-11-21 10:11:12.123456+02',
    '2026-11-21', '10:11:12.123456', '10:11:12.123', '10:11:12+02', '2 days 03:04:05.5', '\\x00ff',
    '8f14e45f-ceea-467f-ab1e-27f3f1d2c0aa', '{"a": 1}', '{"b": [1]}', true, -1, 0.5, 0.1, 'ab', 'ok', '101',
    '{1,NULL,3}', '{a,NULL,"b,c"}', '{2026-01-01}', '10.0.0.1/24', '[1,5)'
"""
LARGE = "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 500) g)"
COLUMNS = {
    "customer": "*",
    "orders": "id, customer_id, note, amount, any_scale, at, at3, zoned, day, clock, clock3, zoned_clock, wait, data, "
    "token, doc::text, docb::text, flag, small, single, number, code, feeling::text, bits::text, numbers, words, days, "
    "host(address::inet), at_once::text",
    "pair": "*",
}


def postgresql_settings(name: str, database: str, **more: str) -> dict[str, str]:
    """Return the settings of a source connector, which drops its slot when it is dropped."""
    own = {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "plugin.name": "pgoutput",
        "database.dbname": str(sa.make_url(database).database),
        "slot.name": name.replace("-", "_").lower(),
        "publication.name": name.replace("-", "_").lower(),
        "slot.drop.on.stop": "true",
    }
    return connector_settings(name, database, **own, **more)


@pytest.mark.parametrize(
    ("schemas", "is_killed"),
    [
        ("true", False),
        ("false", False),
        # A killed Connect needs a minute to come back.
        pytest.param("true", True, marks=pytest.mark.only_in_campaigns),
    ],
)
def test_a_replica_equals_the_source_of_a_real_connector(
    schemas: str, is_killed: bool, kafka: Broker, connect: Connect, new_database: NewDatabase, source_name: str
) -> None:
    """The replica's own tables have foreign keys and unique keys, which only whole transactions satisfy."""
    primary_url, replica_url = new_database("postgresql"), new_database("postgresql")
    primary, replica = Database(primary_url), Database(replica_url)
    primary.execute(TABLES)
    replica.execute(TABLES)
    primary.execute(
        "INSERT INTO customer VALUES (1, 'a@x'), (2, 'b@x')",
        f"INSERT INTO orders VALUES (1, 1, 'short', {VALUES}), (2, 2, {LARGE}, {VALUES})",
        "INSERT INTO pair VALUES (1, 'x', 'n')",
    )
    settings = Settings(
        source=source_name,
        format="debezium",
        kafka={"bootstrap.servers": kafka.bootstrap_servers},
        replicas={NAME: ReplicaSettings(url=replica_url, evolution="none")},
    )
    modes = {"key.converter.schemas.enable": schemas, "value.converter.schemas.enable": schemas}
    if schemas == "true":
        modes |= {"column.propagate.source.type": ".*", "interval.handling.mode": "string"}
    properties = postgresql_settings(source_name, primary_url, **modes)
    with connector(connect, source_name, properties), running_worker(settings) as worker:
        worker.until(lambda progress: progress.state == "consistent")
        connect.check(source_name)
        # Unique values move, a parent and its child come together, a large value stays, a key changes.
        primary.execute(
            "UPDATE customer SET email = 'c@x' WHERE id = 1",
            "UPDATE customer SET email = 'a@x' WHERE id = 2",
            f"INSERT INTO customer VALUES (3, 'b@x'); INSERT INTO orders VALUES (3, 3, {LARGE}, {VALUES})",
            "UPDATE orders SET amount = amount + 1",
            "INSERT INTO pair SELECT g, 'm', 'multi' FROM generate_series(1, 500) g",
            "UPDATE pair SET b = 'y' WHERE b = 'x'",
        )
        # The transaction that begins first commits last.
        with primary.engine.begin() as long:
            long.exec_driver_sql("UPDATE pair SET note = 'first' WHERE a = 1 AND b = 'm'")
            primary.execute(
                "UPDATE pair SET note = 'second' WHERE a = 2 AND b = 'm'", "DELETE FROM orders WHERE id = 1"
            )
            long.exec_driver_sql("UPDATE pair SET note = 'third' WHERE a = 3 AND b = 'm'")
        primary.execute(
            "TRUNCATE pair", "INSERT INTO pair VALUES (9, 'new', NULL)", "DELETE FROM customer WHERE id = 1"
        )
        if is_killed:
            # The connector begins again at its last stored offset, and writes what came after it once more.
            worker.until(lambda _: replica.rows("pair") == primary.rows("pair"))
            connect.kill()
            primary.execute("UPDATE orders SET amount = amount * 2", "INSERT INTO pair VALUES (10, 'later', 'x')")
            connect.start()
            connect.put(source_name, properties)
        worker.until(lambda _: held(primary, COLUMNS) == held(replica, COLUMNS))
        assert replica.state() == "consistent"
    assert held(primary, COLUMNS) == held(replica, COLUMNS)
