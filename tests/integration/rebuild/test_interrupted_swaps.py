"""What stands between two steps of a swap is finished, or never happens, whoever comes next."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.consumer.rebuild import swap
from rowcast.consumer.rebuild.dialects.mysql import MySQLSwap
from rowcast.consumer.rebuild.dialects.postgresql import PostgreSQLSwap
from rowcast.consumer.replica.table_swap import swap_mark, swap_token
from rowcast.shared.config.settings import Settings
from servers import Broker
from support.kafka_source import Source
from support.rebuilds import rebuilt
from support.relay.threads import wait_until
from support.worker_runs import CUSTOMER, ORDERS, Database, settings_for, work_once


class Stopped(Exception):
    """Stand for the end of the process."""


class Wrong:
    """A replica with wrong rows, so that the old tables differ from the fresh tables."""

    def __init__(self, url: str, kafka: Broker, source_name: str) -> None:
        self.source = Source(kafka.bootstrap_servers, source_name)
        self.replica = Database(url)
        self.settings: Settings = settings_for(source_name, kafka.bootstrap_servers, url)
        self.source.add(CUSTOMER, ORDERS)
        self.source.transaction(
            ("c", "customer", {"id": 1, "email": "a"}),
            ("c", "orders", {"id": 1, "customer_id": 1, "note": "", "amount": "1.00"}),
        )
        work_once(self.settings)
        self.replica.execute("UPDATE customer SET email = 'wrong'")

    def write(self) -> None:
        self.source.transaction(("c", "customer", {"id": 2, "email": "b"}))

    def emails(self) -> list[str]:
        return [email for _, email in self.replica.rows("customer", "id", "email")]


NewWrong = Callable[[str], Wrong]


@pytest.fixture
def new(new_database: Callable[[str], str], kafka: Broker, source_name: str) -> NewWrong:
    return lambda engine: Wrong(new_database(engine), kafka, source_name)


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_a_worker_finishes_a_swap_whose_process_ended_after_the_rename(
    new: NewWrong, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = new(engine)

    def stop(*_: object) -> bool:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(swap, "settle_swap", stop)
        with suppress(Stopped):
            rebuilt(place.settings)
    assert swap_mark(place.source.name) in place.replica.tables()
    place.write()
    assert work_once(place.settings).state == "consistent"
    assert place.emails() == ["a", "b"]
    assert swap_mark(place.source.name) not in place.replica.tables()
    rebuilt(place.settings)
    assert not [table for table in place.replica.tables() if "_old_" in table]


@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_a_rename_that_a_killed_rebuild_left_waiting_fails_after_a_worker_has_taken_over(
    new: NewWrong, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = new(engine)
    renames: list[tuple[Any, ...]] = []

    def stop(_self: MySQLSwap, _connection: sa.Connection, *arguments: Any) -> None:
        renames.append(arguments)
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(MySQLSwap, "swap", stop)
        with suppress(Stopped):
            rebuilt(place.settings)
    assert swap_token(place.source.name) in place.replica.tables()
    place.write()
    work_once(place.settings)
    with place.replica.engine.connect() as connection, pytest.raises(exc.DBAPIError, match="swap_"):
        MySQLSwap().swap(connection, *renames[0])
    assert place.emails() == ["wrong", "b"]
    rebuilt(place.settings)
    assert place.emails() == ["a", "b"]


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ["postgresql", "mariadb", "mysql", "sqlite"])
def test_the_old_tables_of_a_rebuild_that_ended_before_their_drop_are_dropped_by_the_next_one(
    new: NewWrong, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = new(engine)

    def stop(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(swap.TableSwap, "drop", stop)
        with suppress(Stopped):
            rebuilt(place.settings)
    assert place.emails() == ["a"]
    assert "rowcast_old_orders" in place.replica.tables()
    assert rebuilt(place.settings).records == 0
    assert not [table for table in place.replica.tables() if "_old_" in table]


@pytest.mark.parametrize("engine", ["postgresql", "mariadb", "mysql"])
def test_a_reader_with_an_older_database_snapshot_never_sees_a_part_of_the_fresh_tables(
    new: NewWrong, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The reader has read nothing of the replica's tables before, so it holds no lock of them."""
    place = new(engine)
    reading = place.replica.engine.connect().execution_options(isolation_level="REPEATABLE READ")
    reading.exec_driver_sql("SELECT count(*) FROM rowcast_table")
    caplog.set_level(logging.INFO)
    thread = threading.Thread(target=rebuilt, args=(place.settings,), daemon=True)
    thread.start()
    wait_until(lambda: "waiting for the end of transactions that began before" in caplog.text)
    assert reading.exec_driver_sql("SELECT email FROM customer").scalars().all() == ["wrong"]
    reading.rollback()
    thread.join(60)
    assert reading.exec_driver_sql("SELECT email FROM customer").scalars().all() == ["a"]
    reading.close()


_WAITS = {
    "postgresql": "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted",
    "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'RENAME TABLE%%'",
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'RENAME TABLE%%'",
}


@pytest.mark.parametrize("engine", ["postgresql", "mariadb", "mysql"])
def test_a_reader_that_holds_a_table_delays_the_swap_and_no_other_reader(
    new: NewWrong, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = new(engine)
    monkeypatch.setattr(swap.TableSwap, "wait_for_snapshots", lambda *_: None)
    with place.replica.engine.connect() as holding:
        holding.exec_driver_sql("SELECT count(*) FROM orders")
        thread = threading.Thread(target=rebuilt, args=(place.settings,), daemon=True)
        thread.start()
        with place.replica.engine.connect() as watching:
            # Twice, so that the swap is tried again after it was refused.
            wait_until(lambda: watching.exec_driver_sql(_WAITS[engine]).scalar_one() > 0)
            wait_until(lambda: watching.exec_driver_sql(_WAITS[engine]).scalar_one() == 0)
            wait_until(lambda: watching.exec_driver_sql(_WAITS[engine]).scalar_one() > 0)
        with place.replica.engine.connect() as reading:
            for _ in range(3):
                began = time.monotonic()
                assert reading.exec_driver_sql("SELECT email FROM customer").scalars().all() == ["wrong"]
                reading.rollback()
                assert time.monotonic() - began < 20
        assert thread.is_alive()
    thread.join(60)
    assert place.emails() == ["a"]


def test_a_fresh_table_that_was_dropped_by_hand_is_loaded_again(new: NewWrong, monkeypatch: pytest.MonkeyPatch) -> None:
    place = new("sqlite")

    def stop(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(swap.TableSwap, "wait_for_snapshots", stop)
        with suppress(Stopped):
            rebuilt(place.settings)
    place.replica.execute("DROP TABLE rowcast_new_customer")
    rebuilt(place.settings)
    assert place.emails() == ["a"]


def test_a_lock_of_a_fresh_table_keeps_no_reader_of_the_live_tables_waiting(
    new: NewWrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autovacuum that prevents a wraparound does not give way to the swap."""
    place = new("postgresql")
    locking = place.replica.engine.connect()
    renames = PostgreSQLSwap.swap

    def lock_and_swap(self: PostgreSQLSwap, *arguments: Any) -> None:
        monkeypatch.setattr(PostgreSQLSwap, "swap", renames)
        locking.exec_driver_sql("LOCK TABLE rowcast_new_orders IN SHARE UPDATE EXCLUSIVE MODE")
        renames(self, *arguments)

    monkeypatch.setattr(PostgreSQLSwap, "swap", lock_and_swap)
    thread = threading.Thread(target=rebuilt, args=(place.settings,), daemon=True)
    thread.start()
    waits = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
    with place.replica.engine.connect() as watching:
        wait_until(lambda: watching.exec_driver_sql(waits).scalar_one() > 0)
        watching.exec_driver_sql("SET statement_timeout = 5000")
        assert watching.exec_driver_sql("SELECT email FROM customer").scalars().all() == ["wrong"]
        watching.rollback()
    locking.close()
    thread.join(60)
    assert place.emails() == ["a"]
