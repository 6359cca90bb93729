"""A replica becomes a primary: the application writes at once, and another replica follows the new timeline."""

from __future__ import annotations

import os
import random
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
import sqlalchemy as sa

from fixtures.databases import ENGINES, NewDatabase
from rowcast.consumer.promotion.promote import PromotionOptions, PromotionResult, promote
from rowcast.producer.relay.main_loop import Relay
from rowcast.shared.config.settings import Settings
from servers import Broker
from servers.guard import Guard
from support.forked_python import ForkedPython
from support.pipeline.database_diff import assert_same_rows
from support.project import TESTS
from support.promotable_shop import Shop
from support.worker_runs import NAME, Database, settings_for, work_once

PAIRS = [*((engine, engine) for engine in ENGINES), ("postgresql", "mariadb"), ("mysql", "postgresql")]


def promoted(settings: Settings, **options: str | bool) -> PromotionResult:
    return promote(settings, NAME, PromotionOptions(**options), stop=threading.Event())  # type: ignore[arg-type]


@pytest.mark.parametrize(("engine", "replica"), PAIRS)
def test_the_application_writes_to_a_promoted_replica_at_once_and_a_second_replica_follows(
    engine: str, replica: str, new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    shop = Shop(new_database(engine), source_name)
    shop.open()
    last = max(keys(shop))
    urls = shop.engine.url.render_as_string(hide_password=False), new_database(replica)
    settings = settings_for(source_name, kafka.bootstrap_servers, urls[1], urls[0])
    Relay(settings, shop.engine).run_once()
    work_once(settings)
    result = promoted(settings)
    assert result.timeline == 2
    assert promoted(settings).was_done
    new = Shop(urls[1], source_name)
    assert new.buy("6@example.com") == (6, last + 1, 1)
    assert_defaults(new)
    second = settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"), urls[1])
    Relay(second, new.engine, new_timeline=2).run_once()
    work_once(second)
    assert new.buy("7@example.com") == (7, last + 2, 2)
    with new.session() as session:
        session.execute(sa.delete(new.customer).where(new.customer.id == 1))
    Relay(second, new.engine, new_timeline=2).run_once()
    work_once(second)
    rows = assert_same_rows(new.engine, Database(second.replica(NAME).url.get_secret_value()).engine, new.metadata)
    # The order of the deleted customer is gone by the cascade.
    assert sorted(key for table, (key, *_) in rows if table == "orders") == keys(new) == [*range(last - 3, last + 3)]


def keys(shop: Shop) -> list[int]:
    with shop.engine.connect() as connection:
        return sorted(connection.scalars(sa.select(shop.order.id)))


def assert_defaults(shop: Shop) -> None:
    with shop.session() as session:
        customer = session.get_one(shop.customer, 6)
        assert (customer.name, customer.active, customer.points) == ("it's 50% \\ new", True, 7)
        assert customer.credit == Decimal("-1.50")
        assert abs(customer.created - datetime.now(UTC).replace(tzinfo=None)) < timedelta(hours=14)
    indexes = {index["name"]: index["column_names"] for index in sa.inspect(shop.engine).get_indexes("customers")}
    assert indexes["ix_customers_city_name"] == ["city", "name"]
    assert "ix_orders_customer_id" in {index["name"] for index in sa.inspect(shop.engine).get_indexes("orders")}


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", [int(os.environ.get("ROWCAST_SEED", "1"))])
def test_a_promotion_that_is_killed_at_any_statement_goes_on_where_it_was(
    seed: int, engine: str, new_database: NewDatabase, kafka: Broker, source_name: str, tmp_path: Path
) -> None:
    shop = Shop(new_database(engine), source_name)
    shop.open()
    last = max(keys(shop))
    url = new_database(engine)
    settings = settings_for(
        source_name, kafka.bootstrap_servers, url, shop.engine.url.render_as_string(hide_password=False)
    )
    Relay(settings, shop.engine).run_once()
    work_once(settings)
    choose = random.Random(seed)
    text = orjson.dumps({"source": source_name, "kafka": settings.kafka, "replicas": {NAME: {"url": url}}}).decode()
    log, codes = tmp_path / "log", []
    with closing(Guard()) as guard:
        for kill in range(_KILLS + 1):
            number = choose.randrange(1, _STATEMENTS) if kill < _KILLS else _NEVER
            arguments = ["-m", "support.promote_process", str(number), text]
            process = ForkedPython(arguments, log, guard, cwd=TESTS, environment=os.environ)
            codes.append(process.wait(120))
            assert codes[-1] in (0, -9), log.read_text()
    assert codes[-1] == 0, log.read_text()
    assert -9 in codes, f"no process was killed: {codes}"
    assert promoted(settings).was_done
    new = Shop(url, source_name)
    assert new.buy("6@example.com") == (6, last + 1, 1)
    assert_defaults(new)
    assert sorted(name for name in sa.inspect(new.engine).get_table_names() if not name.startswith("rowcast_")) == [
        "customers",
        "orders",
        "tags",
    ]


_KILLS = int(os.environ.get("ROWCAST_KILLS", "4"))
_STATEMENTS, _NEVER = 150, 1_000_000
