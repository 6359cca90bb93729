"""A promotion while relay, worker and readers run, and what happens to the old primary and to another replica."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.consumer import replica_status
from rowcast.consumer.promotion.dialects import postgresql
from rowcast.consumer.promotion.promote import PromotionOptions, promote
from rowcast.consumer.promotion.readiness import NotReadyError
from rowcast.consumer.replica.promoted import PromotedError
from rowcast.producer.relay.leader.timelines import NewTimelineNeededError
from rowcast.producer.relay.main_loop import Relay
from rowcast.shared.config.database_settings import PrimarySettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import SuspectError
from servers import Broker
from support.command_line import rowcast
from support.pipeline.database_diff import assert_same_rows
from support.promotable_shop import Shop
from support.rebuilds import rebuilt
from support.worker_runs import NAME, Database, RunningWorker, settings_for, work_once


def url_of(shop: Shop) -> str:
    return shop.engine.url.render_as_string(hide_password=False)


@pytest.mark.parametrize("engine", ["postgresql", "mariadb", "sqlite"])
def test_the_active_worker_ends_at_a_boundary_and_the_old_primary_and_its_replicas_are_left_behind(
    engine: str, new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    shop = Shop(new_database(engine), source_name)
    shop.open()
    settings = settings_for(source_name, kafka.bootstrap_servers, new_database(engine), url_of(shop))
    other = settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"), url_of(shop))
    Relay(settings, shop.engine).run_once()
    work_once(other)
    worker = RunningWorker(settings)
    worker.until(lambda progress: progress.state == "consistent")
    shop.buy("unpublished@example.com")
    with pytest.raises(NotReadyError, match="outbox has commits that are not published"):
        promote(settings, NAME, PromotionOptions(), stop=threading.Event())
    with pytest.raises(NotReadyError, match="outbox has commits that are not published"):
        promote(settings, NAME, PromotionOptions(accept_lost="1000"), stop=threading.Event())
    assert replica_status(settings, NAME).state == "consistent"
    Relay(settings, shop.engine).run_once()
    deadline = time.monotonic() + 60
    while replica_status(settings, NAME).records:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    promote(settings, NAME, PromotionOptions(), stop=threading.Event())
    with pytest.raises(AssertionError, match="the worker has ended"):
        worker.until(lambda _: False)
    assert isinstance(worker.error, PromotedError)
    new = Shop(settings.replica(NAME).url.get_secret_value(), source_name)
    assert_same_rows(shop.engine, new.engine, new.metadata)
    promoted = settings.model_copy(update={"primary": PrimarySettings(url=url_of(new)), "replicas": other.replicas})
    with pytest.raises(NewTimelineNeededError, match="relay --new-timeline 2"):
        Relay(promoted, new.engine).run_once()
    Relay(promoted, new.engine, new_timeline=2).run_once()
    shop.buy("lost@example.com")
    with pytest.raises(NewTimelineNeededError):
        Relay(settings, shop.engine).run_once()
    with pytest.raises(SuspectError):
        work_once(promoted)
    new.buy("new@example.com")
    Relay(promoted, new.engine).run_once()
    rebuilt(promoted)
    copy = Database(promoted.replica(NAME).url.get_secret_value())
    rows = assert_same_rows(new.engine, copy.engine, new.metadata)
    emails = {row["email"] for (table, _), row in rows.items() if table == "customers"}
    assert {"unpublished@example.com", "new@example.com"} <= emails
    assert "lost@example.com" not in emails


def test_the_role_goes_back_to_the_old_server(new_database: NewDatabase, kafka: Broker, source_name: str) -> None:
    """Each promotion begins the next timeline, and the keys go on."""
    shop = Shop(new_database("postgresql"), source_name)
    shop.open()
    expected = (6, 105, 1)
    for timeline, server in ((1, "mariadb"), (2, "postgresql"), (3, "sqlite")):
        settings = settings_for(source_name, kafka.bootstrap_servers, new_database(server), url_of(shop))
        Relay(settings, shop.engine, new_timeline=timeline if timeline > 1 else None).run_once()
        work_once(settings)
        assert promote(settings, NAME, PromotionOptions(), stop=threading.Event()).timeline == timeline + 1
        shop = Shop(settings.replica(NAME).url.get_secret_value(), source_name)
        assert shop.buy(f"new{timeline}@example.com") == expected
        expected = (expected[0] + 1, expected[1] + 1, expected[2] + 1)


def test_a_promotion_waits_for_readers_of_a_table(
    new_database: NewDatabase, kafka: Broker, source_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "LOCK_S", 1)
    shop = Shop(new_database("postgresql"), source_name)
    shop.open()
    settings = settings_for(source_name, kafka.bootstrap_servers, new_database("postgresql"), url_of(shop))
    Relay(settings, shop.engine).run_once()
    work_once(settings)
    reader = Database(settings.replica(NAME).url.get_secret_value()).engine.connect()
    reader.exec_driver_sql("SELECT 1 FROM tags")
    done = threading.Thread(
        target=promote, args=(settings, NAME, PromotionOptions()), kwargs={"stop": threading.Event()}, daemon=True
    )
    done.start()
    _wait_for_state(settings, "promoting")
    # Longer than a single wait for the lock.
    done.join(2)
    assert done.is_alive()
    reader.close()
    done.join(60)
    assert replica_status(settings, NAME).state == "promoted"


def _wait_for_state(settings: Settings, state: str) -> None:
    deadline = time.monotonic() + 60
    while replica_status(settings, NAME).state != state:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_command_shows_the_statements_then_promotes_and_then_says_that_it_was_done(
    new_database: NewDatabase, kafka: Broker, source_name: str, tmp_path: Path
) -> None:
    shop = Shop(new_database("sqlite"), source_name)
    shop.open()
    settings = settings_for(source_name, kafka.bootstrap_servers, new_database("postgresql"), url_of(shop))
    Relay(settings, shop.engine).run_once()
    work_once(settings)
    (tmp_path / "rowcast.toml").write_text(
        f'source = "{source_name}"\n[kafka]\n"bootstrap.servers" = "{kafka.bootstrap_servers}"\n'
        f'[primary]\nurl = "{url_of(shop)}"\n'
        f'[replicas.copy]\nurl = "{settings.replica(NAME).url.get_secret_value()}"\n'
    )
    tried = rowcast("promote", "copy", "--dry-run", cwd=tmp_path)
    assert 'ALTER TABLE "tags" ALTER COLUMN "id" ADD GENERATED BY DEFAULT AS IDENTITY;' in tried.stdout
    assert replica_status(settings, NAME).state == "consistent"
    done = rowcast("promote", "copy", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[0][:36]) == (0, "replica copy is a primary now: 3 tab")
    assert "rowcast relay --new-timeline 2" in done.stdout
    assert "Readers other than workers" in done.stdout
    again = rowcast("promote", "copy", cwd=tmp_path)
    assert (again.returncode, again.stdout.splitlines()[0]) == (
        0,
        "replica copy was promoted before. Nothing was changed.",
    )


def test_a_table_of_the_users_own_gets_what_it_lacks(
    new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    shop = Shop(new_database("sqlite"), source_name)
    shop.open()
    url = new_database("postgresql")
    owner = Database(url)
    owner.execute(
        "CREATE TABLE tags (id INTEGER PRIMARY KEY, token UUID NOT NULL, label VARCHAR(20) UNIQUE)",
        "CREATE INDEX mine ON tags (label)",
    )
    settings = settings_for(source_name, kafka.bootstrap_servers, url, url_of(shop))
    Relay(settings, shop.engine).run_once()
    work_once(settings)
    promote(settings, NAME, PromotionOptions(), stop=threading.Event())
    indexes = {index["name"] for index in sa.inspect(owner.engine).get_indexes("tags")}
    assert "mine" in indexes
    assert Shop(url, source_name).buy("x@example.com")[2] == 1
