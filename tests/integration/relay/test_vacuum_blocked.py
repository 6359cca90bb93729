"""A query of minutes keeps VACUUM from removing deleted outbox rows, and publishing continues."""

from __future__ import annotations

import random

import pytest
import sqlalchemy as sa

from rowcast.producer.relay import Relay
from servers import Broker
from support.relay.counter_app import Counters
from support.relay.primary import Primary
from support.relay.settings import settings_of
from support.relay.threads import running_thread, wait_until
from support.relay.topic_reader import assert_whole_transactions, notes_by_key, read_topics


@pytest.mark.shared_dialect
def test_a_reader_that_holds_an_old_snapshot_does_not_stop_publishing(
    primary: Primary, kafka: Broker, source_name: str
) -> None:
    settings = settings_of(kafka, source_name, primary)
    counters, rng = Counters(primary), random.Random(1)
    isolation = "SERIALIZABLE" if primary.engine.dialect.name == "sqlite" else "REPEATABLE READ"
    with (
        running_thread(Relay(settings, primary.engine)),
        primary.engine.connect().execution_options(isolation_level=isolation) as reader,
    ):
        counters.raise_some(rng)
        outbox = sa.select(primary.tables.outbox.c.id)
        if primary.engine.dialect.name == "sqlite":
            # The driver does not begin a transaction before a read.
            reader.exec_driver_sql("BEGIN")
        seen = reader.execute(outbox).all()
        for _ in range(5):
            for _ in range(10):
                counters.raise_some(rng)
            wait_until(lambda: primary.ids() == [])
        assert reader.execute(outbox).all() == seen
    published = read_topics(kafka.bootstrap_servers, settings.source, "read_committed")
    assert_whole_transactions(published.stream)
    assert notes_by_key(published.stream) == counters.expected()
