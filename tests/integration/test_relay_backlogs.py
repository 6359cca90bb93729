"""Large backlogs of what triggers write: a row for each change, none of which says that it is the last."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from fix_databases import NewDatabase
from integration.relay_threads import running_thread, wait_until
from integration.relay_topics import assert_whole_transactions, read_topics
from rowcast.producer.outbox import outbox_tables
from rowcast.producer.relay import Relay
from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.reading import Outbox
from rowcast.shared.config import Settings
from rowcast.shared.events import ChangeEvent
from servers import Broker
from trigger_shop import open_trigger_shop
from unit.relay_database import ORDERS, Primary, line


def settings_of(primary: Primary, kafka: Broker, source: str, **relay: int) -> Settings:
    return Settings(
        source=source,
        kafka={"bootstrap.servers": kafka.bootstrap_servers},
        primary={"url": primary.engine.url.render_as_string(hide_password=False)},
        relay=relay,
    )


def add_rows(primary: Primary, count: int) -> None:
    """Of transactions of four rows, two of which interleave."""
    primary.add_shapes(ORDERS)
    rows = [
        {"tx": f"t{n // 8 * 2 + n % 2}", "ts_ms": 1, "complete": None, "changes": line(ORDERS, "c", n)}
        for n in range(count)
    ]
    with primary.engine.begin() as connection:
        connection.execute(sa.insert(primary.tables.outbox), rows)


def assert_published(settings: Settings, count: int) -> None:
    """Each row once, those of a transaction together."""
    stream = read_topics(str(settings.kafka["bootstrap.servers"]), settings.source, "read_committed").stream
    assert_whole_transactions(stream)
    changes = [found for found in stream if isinstance(found, ChangeEvent)]
    assert len(changes) == count
    keys = [(found.after or {})["id"] for found in changes]
    assert keys == sorted(range(count), key=lambda n: (n // 8, n % 2, n))


def test_one_look_through_a_backlog_serves_many_claims(primary: Primary, kafka: Broker, source_name: str) -> None:
    add_rows(primary, 800)
    settings = settings_of(primary, kafka, source_name, claim_rows=20)
    looks = []

    @event.listens_for(primary.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        # The look at the first rows goes past these events.
        if sql.startswith("SELECT") and "FROM rowcast_outbox" in sql:
            looks.append(sql)

    assert Relay(settings, primary.engine).run_once() == 800
    assert len(looks) == 1
    assert_published(settings, 800)


@contextmanager
def slow_scans(engine: sa.Engine) -> Iterator[None]:
    """Statements that do more than a look at a few hundred rows take seconds."""

    def slow(driver: Any, *_: Any) -> None:
        driver.set_progress_handler(lambda: threading.Event().wait(0.2) and None, 10_000)

    event.listen(engine, "checkout", slow)
    try:
        yield
    finally:
        event.remove(engine, "checkout", slow)


def test_the_lease_is_kept_while_a_look_takes_longer(lite: Primary, kafka: Broker, source_name: str) -> None:
    """Or a standby would take over, and be no quicker: nobody would ever claim anything."""
    add_rows(lite, 4_000)
    settings = settings_of(lite, kafka, source_name, lease_ms=500, claim_rows=200, kafka_transaction_ms=0)
    first, second = (Relay(settings, lite.engine) for _ in range(2))
    with slow_scans(lite.engine), running_thread(first):
        wait_until(lambda: first.progress.state == "leading")
        with running_thread(second):
            wait_until(lambda: first.progress.events == 4_000, seconds=30)
            assert second.progress.state == "standing by"
    assert_published(settings, 4_000)


def test_what_sqlites_triggers_may_add_to_has_no_end_yet(new_database: NewDatabase) -> None:
    with open_trigger_shop(new_database("sqlite")) as shop, Connections(shop.engine) as connections:
        outbox = Outbox(connections, outbox_tables(sa.MetaData()))

        def write(at: int) -> None:
            shop.execute(f"INSERT INTO readings (sensor, at) VALUES ('a', {at})")

        def ends() -> list[tuple[int, int]]:
            with connections.snapshot() as snapshot:
                found = outbox.at(snapshot).ends(1, (), 10)
            assert found == outbox.ends(1, (), 10)
            return [(end_id, rows) for _, end_id, rows in found]

        write(1)
        outbox.heads(10, range(0), 0)
        write(2)
        assert ends() == [(1, 1)]
        write(3)
        outbox.heads(10, range(0), 0)
        assert ends() == [(1, 1), (3, 2)]
