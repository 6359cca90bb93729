"""Changes go from triggers through relay and worker to a replica. Compare rows and boundaries of transactions."""

from __future__ import annotations

import threading
from itertools import product

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from fixtures.databases import ENGINES, NewDatabase
from integration.triggers.test_capture import SEED, interleave
from rowcast.consumer.status.lag import replica_status
from rowcast.consumer.verification.comparison import verify
from rowcast.producer import Capture
from rowcast.producer.relay import backlog, run_relay, running
from rowcast.shared.config.settings import Settings
from rowcast.shared.config.topic_settings import TopicSettings
from rowcast.shared.kafka.messages import ChangeEvent
from rowcast.shared.tables.own_tables import is_rowcast_table
from servers import Broker
from support.relay.threads import wait_until
from support.relay.topic_reader import Published, assert_whole_transactions, read_topics
from support.shop import Models
from support.trigger_shop import declare, install_on, open_trigger_shop, plain_engine
from support.worker_runs import Database, settings_for, work_once

WORK = (
    "UPDATE tags SET name = 'X' WHERE id = 1",
    "UPDATE readings SET at = at + 1 WHERE sensor = 'b'",
    "UPDATE readings SET value = 1e300 WHERE sensor = 'a'",
    "DELETE FROM order_tags WHERE order_id = 1",
    "DELETE FROM orders WHERE id = 1",
    "INSERT INTO customers (id, secret, visits) VALUES (9, 'é', 7)",
    "INSERT INTO orders (id, customer_id, amount, placed) VALUES (7, 9, 0.1, '2026-11-21')",
    "UPDATE customers SET visits = visits + 1",
)


def publish(settings: Settings) -> None:
    run_relay(settings, once=True, stop=threading.Event())


# The lines of triggers are those of listeners, which the fidelity tests carry between the engines.
PAIRS = [("postgresql", "mariadb"), ("mariadb", "sqlite"), ("sqlite", "postgresql")]
ALL_PAIRS = [
    pytest.param(*pair, marks=[] if pair in PAIRS else [pytest.mark.only_in_campaigns])
    for pair in product(("postgresql", "mariadb", "sqlite"), ENGINES)
]


@pytest.mark.parametrize(("primary", "replica"), ALL_PAIRS)
def test_rows_arrive(kafka: Broker, source_name: str, new_database: NewDatabase, primary: str, replica: str) -> None:
    primary_url, replica_url = new_database(primary), new_database(replica)
    settings = settings_for(source_name, kafka.bootstrap_servers, replica_url, primary_url)
    with open_trigger_shop(primary_url) as shop:
        shop.execute(*SEED)
        publish(settings)
        work_once(settings)
        shop.execute(*WORK)
        publish(settings)
        work_once(settings)
    assert Database(replica_url).state() == "consistent"
    result = verify(settings, "copy")
    assert result.equal
    assert {table.table.split(".")[-1] for table in result.tables if table.rows} >= {"tags", "orders", "notes"}


def test_rows_arrive_through_topics_of_other_names(kafka: Broker, source_name: str, new_database: NewDatabase) -> None:
    primary, replica = new_database("sqlite"), new_database("sqlite")
    settings = settings_for(source_name, kafka.bootstrap_servers, replica, primary)
    settings = settings.model_copy(update={"topics": TopicSettings(template="{table}.{source}")})
    with open_trigger_shop(primary) as shop:
        shop.execute(*SEED)
        publish(settings)
        work_once(settings)
    assert verify(settings, "copy").equal
    assert f"tags.{source_name}" in {lag.topic for lag in replica_status(settings, "copy").topics}


def by_transaction(published: Published, column: str) -> list[set[str]]:
    """Check that every transaction is whole. Return the values of a column in each published transaction, in order."""
    stream = published.stream
    assert_whole_transactions(stream)
    found: list[set[str]] = []
    for event in stream:
        if isinstance(event, ChangeEvent):
            found[-1].add(str((event.after or {}).get(column)))
        elif event.status == "BEGIN":
            found.append(set())
    return found


def test_transactions_stay_whole_while_others_run(kafka: Broker, source_name: str, primary_url: str) -> None:
    """A relay reads while four connections write. SQLite cannot separate successive transactions, so that several may
    be published together, but never in parts."""
    settings = settings_for(source_name, kafka.bootstrap_servers, "sqlite://", primary_url)
    with open_trigger_shop(primary_url, only=["readings"]) as shop:
        with running(settings) as relay:
            shop.execute("INSERT INTO readings (sensor, at) VALUES ('first', 1)")
            wait_until(lambda: backlog(shop.engine, source_name).lsn > 0)
            for first in (0, 15, 30):
                interleave(shop.other, range(first, first + 15))
                wait_until(lambda: backlog(shop.engine, source_name).rows == 0)
            assert relay.error is None
        publish(settings)
        batches = shop.execute_scalars("SELECT DISTINCT sensor FROM readings")
    published = by_transaction(read_topics(kafka.bootstrap_servers, source_name, "read_committed"), "sensor")
    assert sorted(batch for transaction in published for batch in transaction) == sorted(batches)
    if shop.engine.dialect.name != "sqlite":
        assert all(len(transaction) == 1 for transaction in published)
    else:
        assert len(published) >= 4, "what the relay had published before goes with what came after"


@pytest.fixture(scope="module")
def models_of_both() -> Models:
    """Return models whose readings are captured by triggers, and the other tables by listeners."""
    return declare(Models(), "readings")


def test_one_transaction_through_listeners_and_triggers_is_one(
    kafka: Broker, source_name: str, primary_url: str, models_of_both: Models
) -> None:
    """Listeners capture tags, and triggers capture readings. The transactions of another program run in between."""
    settings = settings_for(source_name, kafka.bootstrap_servers, "sqlite://", primary_url)
    models = models_of_both
    engine, other = plain_engine(sa.make_url(primary_url)), plain_engine(sa.make_url(primary_url))
    capture = Capture(models.metadata, source=source_name)
    names = [name for name in models.metadata.tables if is_rowcast_table(name) or name in ("tags", "readings")]
    models.metadata.create_all(engine, [models.metadata.tables[name] for name in names], checkfirst=False)
    install_on(engine, models.metadata, ["readings"])
    sessions = sessionmaker(engine)
    capture.install(sessions)
    for n in range(3):
        with sessions.begin() as session:
            session.add(models.Reading(sensor=f"before {n}", at=n))
            session.flush()
            session.add(models.Tag(name=f"tag {n}"))
            session.flush()
            session.add(models.Reading(sensor=f"after {n}", at=n))
        with other.begin() as connection:
            connection.exec_driver_sql(f"INSERT INTO readings (sensor, at) VALUES ('other {n}', 1)")
    publish(settings)
    published = read_topics(kafka.bootstrap_servers, source_name, "read_committed")
    tables = [name.split(".")[-1] for name in {e.full_name for e in published.stream if isinstance(e, ChangeEvent)}]
    assert sorted(tables) == ["readings", "tags"]
    transactions = by_transaction(published, "sensor")
    together = [{f"before {n}", "None", f"after {n}"} for n in range(3)]
    if engine.dialect.name == "sqlite":
        # On SQLite, the other program's change is published with the next transaction.
        assert transactions == [
            together[0], {"other 0"} | together[1], {"other 1"} | together[2], {"other 2"}
        ]  # fmt: skip
    else:
        assert transactions == [one for n in range(3) for one in (together[n], {f"other {n}"})]
    engine.dispose()
    other.dispose()
