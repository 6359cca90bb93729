"""Publish large backlogs of triggers: an outbox row for each change, and no mark on the last row of a transaction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from fixtures.databases import NewDatabase
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.relay import Relay
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.outbox_reader import OutboxReader
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.messages import ChangeEvent
from servers import Broker
from support.relay.primary import ORDERS, Primary, line
from support.relay.threads import running_thread, wait_until
from support.relay.topic_reader import assert_whole_transactions, read_topics
from support.sent_statements import sent_statements
from support.trigger_shop import open_trigger_shop


def settings_of(primary: Primary, kafka: Broker, source: str, **relay: int) -> Settings:
    return Settings(
        source=source,
        kafka={"bootstrap.servers": kafka.bootstrap_servers},
        primary={"url": primary.engine.url.render_as_string(hide_password=False)},
        relay=relay,
    )


def add_rows(primary: Primary, count: int) -> None:
    """Add transactions of four rows, with pairs of interleaved transactions."""
    primary.add_shapes(ORDERS)
    rows = [
        {"tx": f"t{n // 8 * 2 + n % 2}", "ts_ms": 1, "complete": None, "changes": line(ORDERS, "c", n)}
        for n in range(count)
    ]
    with primary.engine.begin() as connection:
        connection.execute(sa.insert(primary.tables.outbox), rows)


def assert_published(settings: Settings, count: int) -> None:
    """Check that each row comes once, and the rows of a transaction together."""
    stream = read_topics(str(settings.kafka["bootstrap.servers"]), settings.source, "read_committed").stream
    assert_whole_transactions(stream)
    changes = [found for found in stream if isinstance(found, ChangeEvent)]
    assert len(changes) == count
    keys = [(found.after or {})["id"] for found in changes]
    assert keys == sorted(range(count), key=lambda n: (n // 8, n % 2, n))


@pytest.mark.shared_dialect
def test_a_single_scan_of_a_backlog_serves_many_claims(primary: Primary, kafka: Broker, source_name: str) -> None:
    add_rows(primary, 400)
    settings = settings_of(primary, kafka, source_name, claim_rows=20)
    with sent_statements(primary.engine) as sent:
        assert Relay(settings, primary.engine).run_once() == 400
    # The read of the first rows skips the listener.
    assert len([sql for sql in sent if sql.startswith("SELECT") and "FROM rowcast_outbox" in sql]) == 1
    assert_published(settings, 400)


@contextmanager
def slow_scans(engine: sa.Engine) -> Iterator[threading.Event]:
    """Slow down the engine until the event is set, so that a read of more than a few hundred rows takes seconds."""
    over = threading.Event()

    def slow(driver: Any, *_: Any) -> None:
        driver.set_progress_handler(lambda: over.wait(0.6) and None, 10_000)

    event.listen(engine, "checkout", slow)
    try:
        yield over
    finally:
        event.remove(engine, "checkout", slow)


def test_the_lease_is_kept_during_a_longer_scan(lite: Primary, kafka: Broker, source_name: str) -> None:
    """Otherwise a standby would take over and be as slow, and no relay would ever claim a row."""
    # A scan of these rows takes almost 3 s.
    add_rows(lite, 2_000)
    settings = settings_of(lite, kafka, source_name, lease_ms=2_000, claim_rows=200, kafka_transaction_ms=0)
    first, second = (Relay(settings, lite.engine) for _ in range(2))
    with slow_scans(lite.engine) as over, running_thread(first):
        wait_until(lambda: first.progress.state == "leading")
        with running_thread(second):
            # Every claim comes after the scan.
            wait_until(lambda: first.progress.events > 0)
            over.set()
            wait_until(lambda: first.progress.events == 2_000)
            assert second.progress.state == "standing by"
            assert first.progress.epoch == 1
    assert_published(settings, 2_000)


def test_a_transaction_that_sqlites_triggers_may_continue_has_no_end_yet(new_database: NewDatabase) -> None:
    with open_trigger_shop(new_database("sqlite")) as shop, Connections(shop.engine) as connections:
        outbox = OutboxReader(connections, outbox_tables(sa.MetaData()))

        def write(at: int) -> None:
            shop.execute(f"INSERT INTO readings (sensor, at) VALUES ('a', {at})")

        def ends() -> list[tuple[int, int]]:
            with connections.snapshot() as snapshot:
                found = outbox.in_snapshot(snapshot).transaction_ends(1, (), 10)
            assert found == outbox.transaction_ends(1, (), 10)
            return [(end_id, rows) for _, end_id, rows in found]

        write(1)
        outbox.heads(10, range(0), 0)
        write(2)
        assert ends() == [(1, 1)]
        write(3)
        outbox.heads(10, range(0), 0)
        assert ends() == [(1, 1), (3, 2)]
