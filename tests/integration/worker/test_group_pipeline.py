"""A group of workers follows a relay whose messages are in Kafka's transactions, and the rows are the primary's."""

from __future__ import annotations

import threading
from collections.abc import Callable

import sqlalchemy as sa

from rowcast.consumer.reads.read_replica import ReadReplica
from rowcast.consumer.status.lag import replica_status
from rowcast.consumer.verification.comparison import verify
from rowcast.producer import Capture
from rowcast.producer.relay import Relay
from rowcast.producer.relay.embedded import run_relay
from rowcast.shared.config.topic_settings import TopicSettings
from servers import Broker
from support.relay.threads import running_thread, wait_until
from support.worker_runs import NAME, Database, running_worker, settings_for, work_once


def test_rows_arrive_and_are_compared_while_both_sides_change(
    kafka: Broker, source_name: str, new_database: Callable[[str], str]
) -> None:
    primary_url, replica_url = new_database("postgresql"), new_database("postgresql")
    settings = settings_for(source_name, kafka.bootstrap_servers, replica_url, primary_url, consistency="row")
    settings = settings.model_copy(update={"topics": TopicSettings(partitions=4)})
    metadata = sa.MetaData()
    item = sa.Table("item", metadata, sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("n", sa.Integer))
    primary, replica = sa.create_engine(primary_url), Database(replica_url)
    capture = Capture(metadata, source=source_name)
    capture.install(primary)
    try:
        metadata.create_all(primary)
        write(primary, item, range(100))
        with (
            running_thread(Relay(settings, primary)),
            running_worker(settings) as first,
            running_worker(settings) as second,
        ):
            first.until(lambda _: "item" in replica.tables() and len(replica.rows("item")) == 100)
            for start in range(100, 400, 20):
                write(primary, item, range(start, start + 20))
            result = verify(settings, NAME)
            assert (result.verdict, result.rows) == ("equal", 400), result
            second.until(lambda _: replica_status(settings, NAME).records == 0)
            wait_until(lambda: [len(one) for one in replica_status(settings, NAME).worker_partitions] == [2, 2])
            wait_until(lambda: replica.state() == "following")
            # A token is there only on a replica that is consistent, so such reads go to the primary.
            assert not ReadReplica(replica.engine, primary=primary, source=source_name).is_within(3_600)
            with primary.begin() as connection:
                connection.execute(sa.update(item).values(n=0))
        run_relay(settings, once=True, stop=threading.Event())
        work_once(settings)
        assert {row[0] for row in replica.rows("item", "n")} == {0}
    finally:
        capture.uninstall(primary)
        primary.dispose()


def write(primary: sa.Engine, item: sa.Table, ids: range) -> None:
    """Insert rows, and change and delete some of them."""
    with primary.begin() as connection:
        connection.execute(sa.insert(item), [{"id": id, "n": id} for id in ids])
        connection.execute(sa.update(item).where(item.c.id.in_(ids[::3])).values(n=item.c.n + 1))
    with primary.begin() as connection:
        connection.execute(sa.delete(item).where(item.c.id == ids[0]))
        connection.execute(sa.insert(item).values(id=ids[0], n=-1))
