"""A rebuild of chosen tables: the rest of the replica stays, and all tables are at one lsn afterwards."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from rowcast.consumer.rebuild import rebuild as rebuild_module
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.dialects import mysql
from rowcast.consumer.replica.taken import restore_foreign_keys
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError
from servers import Broker
from support.kafka_source import Source, column, shape
from support.rebuilds import rebuilt
from support.relay.threads import wait_until
from support.worker_runs import CUSTOMER, ORDERS, Database, running_worker, settings_for, work_once

SERVERS = ["postgresql", "mariadb", "mysql"]
ENGINES = [*SERVERS, "sqlite"]
ITEM = shape("item", column("orders_id"), column("name", "text"), refers=[("orders_id", "orders")])


class Shop:
    """A replica of customers, orders and items, each referring to the one before, with wrong orders."""

    def __init__(self, url: str, kafka: Broker, source_name: str, *, refers: bool = True) -> None:
        self.source = Source(kafka.bootstrap_servers, source_name)
        self.replica = Database(url)
        self.settings: Settings = settings_for(source_name, kafka.bootstrap_servers, url)
        orders = ORDERS if refers else shape("orders", column("customer_id"), column("note", "text"))
        item = ITEM if refers else shape("item", column("orders_id"), column("name", "text"))
        self.source.add(CUSTOMER, orders, item)
        self._refers = refers
        self.order(1)
        work_once(self.settings)
        self.replica.execute("UPDATE orders SET note = 'wrong'", "UPDATE customer SET email = 'mine'")

    def order(self, number: int) -> None:
        """Publish a transaction of a customer, an order and an item."""
        amount = {"amount": "1.00"} if self._refers else {}
        self.source.transaction(
            ("c", "customer", {"id": number, "email": f"{number}@example.com"}),
            ("c", "orders", {"id": number, "customer_id": number, "note": f"{number}"} | amount),
            ("c", "item", {"id": number, "orders_id": number, "name": f"{number}"}),
        )

    def notes(self) -> list[str]:
        return [note for (note,) in self.replica.rows("orders", "note")]

    def keys(self) -> set[tuple[str, str]]:
        """Return the referring and the referred table of each foreign key."""
        return {
            (table, key["referred_table"])
            for table in ("customer", "orders", "item")
            for key in self.replica.foreign_keys(table)
        }

    def counts(self) -> set[int]:
        return {len(self.replica.rows(table)) for table in ("customer", "orders", "item")}


NewShop = Callable[..., Shop]


@pytest.fixture
def new(new_database: Callable[[str], str], kafka: Broker, source_name: str) -> NewShop:
    def make(engine: str, **options: Any) -> Shop:
        return Shop(new_database(engine), kafka, source_name, **options)

    return make


@pytest.mark.parametrize("engine", SERVERS)
def test_chosen_tables_are_rebuilt_and_the_others_stay(new: NewShop, engine: str) -> None:
    shop = new(engine)
    keys = shop.keys()
    assert keys == {("orders", "customer"), ("item", "orders")}
    result = rebuilt(shop.settings, tables=["orders"])
    assert result.tables == ("public.orders",)
    assert shop.notes() == ["1"]
    assert shop.replica.rows("customer", "email") == [("mine",)]
    assert shop.keys() == keys
    assert not [t for t in shop.replica.tables() if "_new_" in t or "_old_" in t or "swap" in t]
    assert shop.replica.state() == "consistent"
    shop.order(2)
    assert work_once(shop.settings).state == "consistent"
    assert shop.counts() == {2}
    assert rebuilt(shop.settings).tables == ("public.customer", "public.item", "public.orders")
    assert shop.keys() == keys


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("is_behind", [True, False])
def test_chosen_tables_join_the_others_at_one_lsn_without_a_running_worker(
    new: NewShop, engine: str, is_behind: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """``is_behind``: the live tables lack transactions that the fresh tables have. Otherwise new ones come later."""
    shop = new(engine, refers=engine != "sqlite")
    if is_behind:
        shop.order(2)
    joined: list[set[int]] = []
    once_free = rebuild_module._Rebuild._swap_once_free

    def swap_once_free(self: Any, *arguments: Any) -> bool:
        # The replica is taken over, so neither set of tables follows the new transaction.
        shop.order(3)
        joined.append({len(shop.replica.rows(t)) for t in ("customer", "item", "rowcast_new_orders")})
        return once_free(self, *arguments)

    monkeypatch.setattr(rebuild_module._Rebuild, "_swap_once_free", swap_once_free)
    caplog.set_level(logging.WARNING)
    rebuilt(shop.settings, tables=["public.ord*"])
    assert joined == [{2 if is_behind else 1}]
    assert shop.counts() == {2 if is_behind else 1}
    assert work_once(shop.settings).state == "consistent"
    assert shop.notes() == sorted(shop.notes())
    assert shop.counts() == {3 if is_behind else 2}
    # A replica with two positions would catch up by key.
    assert "loading" not in caplog.text


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_goes_on_before_and_after_the_swap(new: NewShop, engine: str) -> None:
    shop = new(engine, refers=engine != "sqlite")
    with running_worker(shop.settings) as worker:
        worker.until(lambda progress: progress.state == "consistent")
        shop.order(2)
        rebuilt(shop.settings, tables=["orders", "item"])
        shop.order(3)
        lsn = shop.source.lsn
        worker.until(lambda progress: progress.lsn >= lsn)
    assert shop.counts() == {3}
    assert shop.notes() == ["1", "2", "3"]


def test_a_foreign_key_to_another_table_prevents_the_rebuild_on_sqlite(new: NewShop) -> None:
    shop = new("sqlite")
    with pytest.raises(ConfigurationError, match=r"orders refers to table public\.customer(?s:.*)Add public\.customer"):
        rebuilt(shop.settings, tables=["orders", "item"])
    assert shop.notes() == ["wrong"]
    rebuilt(shop.settings, tables=["customer", "orders", "item"])
    assert shop.notes() == ["1"]


def test_a_mistyped_table_is_answered_with_the_probable_one(new: NewShop) -> None:
    shop = new("sqlite")
    with pytest.raises(ConfigurationError, match=r"no table 'order' .*Did you mean 'orders'"):
        rebuilt(shop.settings, tables=["order"])


def test_a_replica_that_is_loading_is_rebuilt_as_a_whole_only(new: NewShop) -> None:
    shop = new("sqlite")
    shop.replica.execute("UPDATE rowcast_replica SET state = 'loading'")
    with pytest.raises(DataError, match="is loading, so chosen tables cannot join"):
        rebuilt(shop.settings, tables=["customer", "orders", "item"])


def test_a_foreign_key_of_the_users_still_prevents_the_rebuild(new: NewShop) -> None:
    shop = new("postgresql")
    shop.replica.execute("CREATE TABLE extra (orders_id bigint REFERENCES orders)")
    with pytest.raises(ConfigurationError, match="extra_orders_id_fkey on table extra"):
        rebuilt(shop.settings, tables=["orders"])


def test_an_unfinished_rebuild_of_other_tables_is_named(new: NewShop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = new("postgresql")

    class Stopped(Exception):
        pass

    def stop(_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(rebuild_module._Rebuild, "_complete", stop)
        with pytest.raises(Stopped):
            rebuilt(shop.settings, tables=["orders"])
    with pytest.raises(ConfigurationError, match=r"rowcast rebuild copy --tables public\.orders"):
        rebuilt(shop.settings)
    with pytest.raises(ConfigurationError, match=r"rowcast rebuild copy --tables public\.orders"):
        rebuilt(shop.settings, tables=["item"])
    rebuilt(shop.settings, tables=["item"], restart=True)
    assert shop.notes() == ["wrong"]
    rebuilt(shop.settings, tables=["orders"])
    assert shop.notes() == ["1"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_table_that_refers_to_itself_still_does_afterwards(
    new_database: Callable[[str], str], kafka: Broker, source_name: str, engine: str
) -> None:
    source, replica = Source(kafka.bootstrap_servers, source_name), Database(new_database(engine))
    url = replica.engine.url.render_as_string(hide_password=False)
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    source.add(shape("member", column("boss_id"), refers=[("boss_id", "member")]), CUSTOMER)
    source.transaction(("c", "member", {"id": 1, "boss_id": None}), ("c", "member", {"id": 2, "boss_id": 1}))
    work_once(settings)
    for _ in range(2):
        rebuilt(settings, tables=["member"])
        assert [key["referred_table"] for key in replica.foreign_keys("member")] == ["member"]
    source.transaction(("c", "member", {"id": 3, "boss_id": 2}), ("d", "member", {"id": 2}), ("d", "member", {"id": 3}))
    assert work_once(settings).state == "consistent"
    assert replica.rows("member") == [(1, None)]


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_readers_wait_no_longer_than_a_limit_behind_the_creation_of_foreign_keys(
    new: NewShop, engine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shop = new(engine)
    keys, waited_s = shop.keys(), []
    monkeypatch.setattr(mysql, "LOCK_S", 1)

    def read() -> None:
        wait_until(lambda: "are not created yet" in caplog.text)
        began = time.monotonic()
        shop.replica.rows("orders")
        waited_s.append(time.monotonic() - began)
        holder.rollback()

    def restore(live: Replica, stop: threading.Event) -> None:
        holder.exec_driver_sql("SELECT * FROM orders")
        reader.start()
        restore_foreign_keys(live, stop)

    reader = threading.Thread(target=read, daemon=True)
    monkeypatch.setattr(rebuild_module, "restore_foreign_keys", restore)
    with shop.replica.engine.connect() as holder:
        rebuilt(shop.settings, tables=["orders"])
        reader.join(30)
    assert waited_s
    assert waited_s[0] < 5
    assert shop.keys() == keys


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", SERVERS)
def test_a_worker_creates_the_foreign_keys_after_a_kill_between_swap_and_creation(new: NewShop, engine: str) -> None:
    shop = new(engine)
    keys = shop.keys()

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rebuild_module, "restore_foreign_keys", kill)
        with pytest.raises(Killed):
            rebuilt(shop.settings, tables=["orders"])
    assert shop.keys() < keys
    assert shop.notes() == ["1"]
    assert work_once(shop.settings).state == "consistent"
    assert shop.keys() == keys
    rebuilt(shop.settings)
    assert not [t for t in shop.replica.tables() if "_old_" in t]


@pytest.mark.parametrize("engine", SERVERS)
def test_kept_old_tables_do_not_hold_the_rows_to_which_they_referred(new: NewShop, engine: str) -> None:
    shop = new(engine)
    rebuilt(shop.settings, tables=["orders"], keep_old=True)
    assert shop.replica.rows("rowcast_old_orders", "note") == [("wrong",)]
    shop.source.transaction(("d", "item", {"id": 1}), ("d", "orders", {"id": 1}), ("d", "customer", {"id": 1}))
    assert work_once(shop.settings).state == "consistent"
    assert shop.counts() == {0}
