"""A fault of the replica's server passes: the worker names it, tries again, and loses nothing."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.consumer.worker import apply_loop
from rowcast.shared.errors import LoginError
from servers import Broker
from support.kafka_source import Source, column, shape
from support.lock_waits import wait_until_something_waits
from support.server_faults import CODES, FAULTS, full, new_role, raising_trigger, small_disk
from support.worker_runs import Database, running_worker, settings_for, work_once

ITEM = shape("item", column("n"))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("engine", "fault"), FAULTS)
def test_the_worker_tries_again_until_the_fault_has_passed(
    engine: str,
    fault: str,
    new_database: NewDatabase,
    kafka: Broker,
    source_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url, source = new_database(engine), Source(kafka.bootstrap_servers, source_name)
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    with new_role(engine, url, "item") as role:
        settings = settings_for(source_name, kafka.bootstrap_servers, role.url)
        with running_worker(settings) as worker:
            worker.until(lambda progress: progress.state == "consistent")
            caplog.clear()
            with caplog.at_level(logging.WARNING, "rowcast.worker"), role.fault(fault) as words:
                source.transaction(("c", "item", {"id": 2, "n": 2}))
                until(lambda: any(words in text and "Trying again in" in text for text in caplog.messages))
            until(lambda: role.admin.rows("item") == [(1, 1), (2, 2)])


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", CODES)
def test_no_code_of_a_passing_fault_is_taken_for_bad_data(
    engine: str, new_database: NewDatabase, kafka: Broker, source_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    url, source = new_database(engine), Source(kafka.bootstrap_servers, source_name)
    replica, settings = Database(url), settings_for(source_name, kafka.bootstrap_servers, url)
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 0, "n": 0}))
    with running_worker(settings) as worker:
        worker.until(lambda progress: progress.state == "consistent")
        for n, code in enumerate(CODES[engine], 1):
            caplog.clear()
            with raising_trigger(replica, "item", "INSERT", code):
                source.transaction(("c", "item", {"id": n, "n": n}))
                until(lambda: any("Trying again in" in text for text in caplog.messages))
            worker.until(lambda progress: progress.lsn == source.lsn)
    assert len(replica.rows("item")) == len(CODES[engine]) + 1


@pytest.mark.shared_dialect
@pytest.mark.parametrize("engine", ["postgresql", "mariadb", "mysql"])
def test_a_worker_that_loses_a_deadlock_tries_again(
    engine: str, new_database: NewDatabase, kafka: Broker, source_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    url, source = new_database(engine), Source(kafka.bootstrap_servers, source_name)
    replica, settings = Database(url), settings_for(source_name, kafka.bootstrap_servers, url)
    if engine == "postgresql":
        # The server looks for a deadlock once, this long after a wait began.
        replica.execute(f"ALTER DATABASE \"{sa.make_url(url).database}\" SET deadlock_timeout = '2s'")
    replica.execute("CREATE TABLE ballast (id integer PRIMARY KEY)")
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 0}), ("c", "item", {"id": 2, "n": 0}))
    with running_worker(settings) as worker:
        worker.until(lambda progress: progress.state == "consistent")
        with replica.engine.begin() as other:
            if engine == "postgresql":
                other.execute(sa.text("SET deadlock_timeout = '60s'"))
            # MariaDB and MySQL end the transaction that has changed fewer rows.
            other.execute(sa.text("INSERT INTO ballast VALUES (:id)"), [{"id": n} for n in range(100)])
            other.execute(sa.text("UPDATE item SET n = 9 WHERE id = 2"))
            source.transaction(("u", "item", {"id": 1, "n": 1}), ("u", "item", {"id": 2, "n": 1}))
            wait_until_something_waits(replica.engine)
            other.execute(sa.text("UPDATE item SET n = 9 WHERE id = 1"))
        until(lambda: replica.rows("item") == [(1, 1), (2, 1)])
    assert any("eadlock" in text and "Trying again in" in text for text in caplog.messages)


def test_a_worker_waits_until_the_database_file_may_grow(
    new_database: NewDatabase, kafka: Broker, source_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    url, source = new_database("sqlite"), Source(kafka.bootstrap_servers, source_name)
    settings = settings_for(source_name, kafka.bootstrap_servers, url)
    source.add(shape("item", column("n", "text")))
    source.transaction(("c", "item", {"id": 1, "n": "small"}))
    work_once(settings)
    limited = True

    def limit(connection: Any, _record: object) -> None:
        if limited:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(sa.Engine, "connect", limit)
    try:
        with running_worker(settings):
            source.transaction(("c", "item", {"id": 2, "n": "large" * 10_000}))
            until(lambda: any("disk is full" in text and "Trying again in" in text for text in caplog.messages))
            limited = False
            until(lambda: len(Database(url).rows("item")) == 2)
    finally:
        sa.event.remove(sa.Engine, "connect", limit)


@pytest.mark.campaign
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
def test_a_worker_waits_while_the_disk_is_full(
    engine: str,
    new_database: NewDatabase,
    kafka: Broker,
    source_name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = "x" * 100_000
    with small_disk(tmp_path / "disk") as disk:
        url = f"sqlite:///{disk}/replica.db" if engine == "sqlite" else new_database(engine)
        replica, source = Database(url), Source(kafka.bootstrap_servers, source_name)
        if engine == "postgresql":
            # A tablespace belongs to no database.
            own = replica.engine.execution_options(isolation_level="AUTOCOMMIT").connect()
            own.exec_driver_sql("DROP TABLESPACE IF EXISTS small")
            shutil.chown(disk, server_user(own))
            own.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{disk}'")
            own.exec_driver_sql("CREATE TABLE item (id bigint PRIMARY KEY, n text) TABLESPACE small")
            # Otherwise the text is compressed to nothing.
            own.exec_driver_sql("ALTER TABLE item ALTER n SET STORAGE EXTERNAL")
        source.add(shape("item", column("n", "text")))
        source.transaction(("c", "item", {"id": 0, "n": ""}))
        settings = settings_for(source_name, kafka.bootstrap_servers, url)
        with running_worker(settings) as worker:
            worker.until(lambda progress: progress.state == "consistent")
            with full(disk):
                source.transaction(*(("c", "item", {"id": n, "n": text}) for n in range(1, 10)))
                until(lambda: any("Trying again in" in text for text in caplog.messages))
                assert re.search("No space left|is full", caplog.text)
            worker.until(lambda progress: progress.lsn == source.lsn)
        assert len(replica.rows("item", "id")) == 10
        if engine == "postgresql":
            own.exec_driver_sql("DROP TABLE item")
            own.exec_driver_sql("DROP TABLESPACE small")
            own.close()


def server_user(connection: sa.Connection) -> str:
    """Return the user of the operating system who runs a PostgreSQL server."""
    folder = connection.exec_driver_sql("SHOW data_directory").scalar_one()
    return Path(folder).owner()


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
@pytest.mark.parametrize("part", ["password", "database", "username"])
def test_a_wrong_login_is_a_wrong_configuration(
    engine: str, part: str, new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    url = new_database(engine)
    with new_role(engine, url, "item") as role:
        right = sa.make_url(role.url)
        wrong = {
            "password": right.set(password="wrong"),
            "database": right.set(database="none_such"),
            "username": right.set(username="nobody"),
        }[part].render_as_string(hide_password=False)
        refusal = r"replica 'copy' database at .* refuses the login: .* Correct the user, the password or"
        with pytest.raises(LoginError, match=refusal) as raised:
            work_once(settings_for(source_name, kafka.bootstrap_servers, wrong))
        assert raised.value.exit_code == 2


def test_a_worker_makes_no_progress_while_kafka_does_not_answer(
    new_database: NewDatabase, kafka: Broker, source_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_loop, "_UNANSWERED_S", 1.5)
    source = Source(kafka.bootstrap_servers, source_name)
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    settings = settings_for(source_name, kafka.bootstrap_servers, new_database("sqlite"))
    with running_worker(settings) as worker:
        worker.until(lambda progress: progress.state == "consistent")
        kafka.pause()
        try:
            until(lambda: time.time() - worker.vitals.progress_at > 0.5)
        finally:
            kafka.resume()
        until(lambda: time.time() - worker.vitals.progress_at < 0.5)
