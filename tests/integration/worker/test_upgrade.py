"""A replica of an earlier version: its tables are read as they are, and a worker adds the columns that they lack."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from rowcast.consumer import replica_status
from rowcast.consumer.replica.dialects import Fault, replica_dialect
from rowcast.consumer.replica.worker_tables import create_tables, missing_columns
from rowcast.shared.errors import ConfigurationError
from servers import Broker
from support.kafka_source import Source, column, shape
from support.old_replica import create_old_tables
from support.worker_runs import Database, settings_for, work_once

ITEM = shape("item", column("n"))
ENGINES = ["postgresql", "mariadb", "mysql", "sqlite"]


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_upgrades_the_tables_and_goes_on_from_the_old_position(
    engine: str, new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    url, source = new_database(engine), Source(kafka.bootstrap_servers, source_name)
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    source.add(ITEM)
    replica = Database(url)
    create_old_tables(replica.engine, source_name)
    status = replica_status(settings, "copy")
    assert (status.state, status.lsn, status.owner) == ("consistent", 7, "old")
    source.lsn = 10
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    assert work_once(settings).transactions == 1
    assert replica.rows("item") == [(1, 1)]
    assert missing_columns(replica.engine) == {}
    assert replica.rows("rowcast_replica", "epoch", "timeline", "since_ms") == [(4, 1, 0)]


@pytest.mark.parametrize("engine", ENGINES)
def test_workers_that_start_together_upgrade_the_tables_once(engine: str, new_database: Callable[[str], str]) -> None:
    replica = Database(new_database(engine))
    create_old_tables(replica.engine, "shop")
    together = threading.Barrier(4)

    def upgrade(_: int) -> None:
        together.wait()
        dialect = replica_dialect(engine)
        while True:
            try:
                return create_tables(replica.engine, dialect)
            except sa.exc.DBAPIError as error:
                # As the worker, which tries again.
                if dialect.classify(error) is not Fault.TRANSIENT:
                    raise

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(upgrade, range(4)))
    assert missing_columns(replica.engine) == {}
    assert replica.rows("rowcast_replica", "lsn", "timeline") == [(7, 1)]


def test_a_missing_right_is_named_with_the_statements_to_run(
    new_database: Callable[[str], str], kafka: Broker, source_name: str
) -> None:
    url, name = new_database("mariadb"), f"w{source_name}"[:30]
    admin, database = Database(url), sa.make_url(url).database
    create_old_tables(admin.engine, source_name)
    user = f"`{name}`@'127.0.0.1'"
    admin.execute(f"CREATE USER {user} IDENTIFIED BY 'x'", f"GRANT SELECT, UPDATE, CREATE ON {database}.* TO {user}")
    try:
        own = sa.make_url(url).set(username=name, password="x").render_as_string(False)
        Source(kafka.bootstrap_servers, source_name).add(ITEM)
        settings = settings_for(source_name, kafka.bootstrap_servers, own)
        with pytest.raises(ConfigurationError, match="Give the user the right ALTER on the tables") as caught:
            work_once(settings)
    finally:
        admin.execute(f"DROP USER {user}")
    statements = str(caught.value).partition("with another user:\n")[2].splitlines()
    admin.execute(*statements)
    assert missing_columns(admin.engine) == {}


def test_another_owner_of_the_tables_is_named_on_postgresql(new_database: Callable[[str], str]) -> None:
    url = new_database("postgresql")
    admin, name = Database(url), f"upgrade_{sa.make_url(url).database}"
    create_old_tables(admin.engine, "shop")
    admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'", f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
    try:
        own = Database(sa.make_url(url).set(username=name, password="x").render_as_string(False))
        with pytest.raises(ConfigurationError, match=r"(?s)permission denied for schema public.*ADD COLUMN") as caught:
            create_tables(own.engine, replica_dialect("postgresql"))
        admin.execute(next(line for line in str(caught.value).splitlines() if line.startswith("CREATE TABLE")))
        with pytest.raises(
            ConfigurationError, match=r"(?s)must be owner of table .*the ownership of the tables.*ADD COLUMN"
        ):
            create_tables(own.engine, replica_dialect("postgresql"))
    finally:
        admin.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")
