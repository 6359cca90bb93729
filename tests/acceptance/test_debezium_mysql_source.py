"""Let a worker apply what Debezium's MySQL source, under Kafka Connect, writes, and compare every value."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from servers import Broker, Connect
from support.source_connector import connector, connector_settings, held
from support.worker_runs import NAME, Database, running_worker, work_once

# The connector and its history of schemas take most of a minute to start.
pytestmark = pytest.mark.only_in_campaigns

TABLES = (
    "CREATE TABLE customer (id bigint PRIMARY KEY, email varchar(40) NOT NULL UNIQUE)",
    """CREATE TABLE orders (
        id bigint PRIMARY KEY, customer_id bigint NOT NULL, note text NOT NULL,
        amount decimal(10, 2), at datetime(6), at3 datetime(3), zoned timestamp(6) NULL, day date,
        clock time(6), clock0 time, data varbinary(10), doc json, flag boolean, tiny tinyint, small smallint,
        medium mediumint, large bigint unsigned, single float, number double, code char(5),
        feeling enum('sad', 'ok'), flags set('a', 'b', 'c'), bits bit(3), born year, longer longtext,
        FOREIGN KEY (customer_id) REFERENCES customer (id)
    )""",
    "CREATE TABLE pair (a int, b varchar(10), note text, PRIMARY KEY (b, a))",
)
VALUES = """
    12.50, '2026-11-21 10:11:12.123456', '2026-11-21 10:11:12.123', '2026-11-21 10:11:12.123456',
    '2026-11-21', '10:11:12.123456', '-12:00:01', x'00ff', '{"a": [1, null]}', true, -1, -300, 70000,
    18446744073709551615, 0.5, 0.1, 'ab', 'ok', 'a,c', b'101', 2026, repeat('é', 3000)
"""
COLUMNS = {
    "customer": "*",
    "orders": "id, customer_id, note, amount, at, at3, zoned, day, clock, clock0, data, json_extract(doc, '$.a[0]'), "
    "flag, tiny, small, medium, large, single, number, code, feeling, flags, bits + 0, born, longer",
    "pair": "*",
}


def mysql_settings(name: str, database: str, kafka: Broker, **more: str) -> dict[str, str]:
    own = {
        "connector.class": "io.debezium.connector.mysql.MySqlConnector",
        "database.server.id": "4711",
        "database.include.list": str(sa.make_url(database).database),
        "driver.allowPublicKeyRetrieval": "true",
        "schema.history.internal.kafka.bootstrap.servers": kafka.bootstrap_servers,
        "schema.history.internal.kafka.topic": f"history-{name}",
    }
    return connector_settings(name, database, **own, **more)


@pytest.mark.parametrize("schemas", ["true", "false"])
def test_a_replica_equals_the_source_of_a_real_connector(
    schemas: str, kafka: Broker, connect: Connect, new_database: NewDatabase, source_name: str
) -> None:
    """The replica's own tables have foreign keys and unique keys, which only whole transactions satisfy."""
    # Another server, because the connector would publish an END for each transaction of the worker.
    primary_url, replica_url = new_database("mysql"), new_database("mariadb")
    primary, replica = Database(primary_url), Database(replica_url)
    primary.execute(*TABLES)
    replica.execute(*TABLES)
    primary.execute(
        "INSERT INTO customer VALUES (1, 'a@x'), (2, 'b@x')",
        f"INSERT INTO orders VALUES (1, 1, 'short', {VALUES}), (2, 2, repeat('x', 9000), {VALUES})",
        "INSERT INTO pair VALUES (1, 'x', 'n')",
    )
    settings = Settings(
        source=source_name,
        format="debezium",
        kafka={"bootstrap.servers": kafka.bootstrap_servers},
        replicas={NAME: ReplicaSettings(url=replica_url, evolution="none", on_truncate="ignore")},
    )
    modes = {"key.converter.schemas.enable": schemas, "value.converter.schemas.enable": schemas}
    if schemas == "true":
        modes |= {"column.propagate.source.type": ".*", "bigint.unsigned.handling.mode": "precise"}
    properties = mysql_settings(source_name, primary_url, kafka, **modes)
    with connector(connect, source_name, properties), running_worker(settings) as worker:
        worker.until(lambda progress: progress.state == "consistent", timeout=120)
        connect.check(source_name)
        # Unique values move, a parent and its child come together, a key changes.
        primary.execute(
            "UPDATE customer SET email = 'c@x' WHERE id = 1",
            "UPDATE customer SET email = 'a@x' WHERE id = 2",
        )
        with primary.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO customer VALUES (3, 'b@x')")
            connection.exec_driver_sql(f"INSERT INTO orders VALUES (3, 3, 'child', {VALUES})")
        primary.execute(
            "UPDATE orders SET amount = amount + 1",
            f"INSERT INTO pair VALUES {', '.join(f'({n}, {chr(39)}m{chr(39)}, NULL)' for n in range(500))}",
            "UPDATE pair SET b = 'y' WHERE b = 'x'",
        )
        # The transaction that begins first commits last.
        with primary.engine.begin() as long:
            long.exec_driver_sql("UPDATE pair SET note = 'first' WHERE a = 1 AND b = 'm'")
            primary.execute(
                "UPDATE pair SET note = 'second' WHERE a = 2 AND b = 'm'", "DELETE FROM orders WHERE id = 1"
            )
            long.exec_driver_sql("UPDATE pair SET note = 'third' WHERE a = 3 AND b = 'm'")
        primary.execute("INSERT INTO pair VALUES (9, 'new', NULL)", "DELETE FROM customer WHERE id = 1")
        worker.until(lambda _: held(primary, COLUMNS) == held(replica, COLUMNS))
        assert replica.state() == "consistent"
        assert held(primary, COLUMNS) == held(replica, COLUMNS)
        # A TRUNCATE is in no transaction, and the connector publishes none by default.
        primary.execute("TRUNCATE pair", "INSERT INTO pair VALUES (10, 'after', NULL)")
        worker.until(lambda _: (10, "after", None) in replica.rows("pair"))
        assert len(replica.rows("pair")) > 500
    other_url = new_database("mariadb")
    Database(other_url).execute(*TABLES)
    other = ReplicaSettings(url=other_url, evolution="none")
    with pytest.raises(DataError, match="TRUNCATE outside of any transaction"):
        work_once(settings.model_copy(update={"replicas": {NAME: other}}))
