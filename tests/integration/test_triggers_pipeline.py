"""From triggers through relay and worker to a replica: rows, and the boundaries of transactions."""

from __future__ import annotations

import threading
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from integration.relay_threads import wait_until
from integration.relay_topics import Published, assert_whole_transactions, read_topics
from integration.test_triggers import SEED, interleave
from replicas import Database, settings_for, work_once
from rowcast.consumer.lag import replica_status
from rowcast.consumer.verify import verify
from rowcast.producer import Capture
from rowcast.producer.relay import backlog, run_relay, running
from rowcast.shared.config import Settings, TopicSettings
from rowcast.shared.events import ChangeEvent
from servers import Broker
from shop import Models
from trigger_shop import declare, install_on, open_trigger_shop, plain_engine

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


def test_rows_arrive(kafka: Broker, source_name: str, primary_url: str, replica_url: str) -> None:
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


def test_rows_arrive_through_topics_of_other_names(
    kafka: Broker, source_name: str, new_database: Callable[[str], str]
) -> None:
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
    """The values of a column that each published transaction has, in order; every transaction is whole."""
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
    """A relay reads while four connections write. SQLite cannot tell transactions that follow each other apart: they
    may be published as one, but never in parts."""
    settings = settings_for(source_name, kafka.bootstrap_servers, "sqlite://", primary_url)
    with open_trigger_shop(primary_url) as shop:
        with running(settings) as relay:
            shop.execute("INSERT INTO readings (sensor, at) VALUES ('first', 1)")
            wait_until(lambda: backlog(shop.engine, source_name).lsn > 0)
            for first in (0, 50, 100):
                interleave(shop.other, range(first, first + 50))
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


def test_one_transaction_through_listeners_and_triggers_is_one(
    kafka: Broker, source_name: str, primary_url: str
) -> None:
    """Tags by listeners, readings by triggers, an order rolled back to a savepoint between; another program beside."""
    settings = settings_for(source_name, kafka.bootstrap_servers, "sqlite://", primary_url)
    models = declare(Models(), "readings")
    engine, other = plain_engine(sa.make_url(primary_url)), plain_engine(sa.make_url(primary_url))
    Capture(models.metadata, source=source_name)
    models.metadata.create_all(engine)
    install_on(engine, models.metadata, ["readings"])
    capture = Capture(models.metadata, source=source_name)
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
        # What the other program wrote goes with what comes next.
        assert transactions == [
            together[0], {"other 0"} | together[1], {"other 1"} | together[2], {"other 2"}
        ]  # fmt: skip
    else:
        assert transactions == [one for n in range(3) for one in (together[n], {f"other {n}"})]
    engine.dispose()
    other.dispose()
