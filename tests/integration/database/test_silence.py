"""A connection that the network has lost is cut, and a statement that runs for long is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Engine

from rowcast.shared.database import sessions, silence
from rowcast.shared.database.engines import open_engine
from rowcast.shared.database.sessions import SessionState
from rowcast.shared.database.silence import SilenceWatch, watched_connections
from support.silent_proxy import SilentProxy, silent_proxy

DRIVERS = {
    "psycopg": ("postgresql", "postgresql+psycopg"),
    "psycopg2": ("postgresql", "postgresql+psycopg2"),
    "pymysql": ("mariadb", "mysql+pymysql"),
}
SLEEP = {"postgresql": "SELECT pg_sleep(1.8)", "mysql": "SELECT sleep(1.8)"}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "_TICK_S", 0.1)
    monkeypatch.setattr(silence, "_LOOK_AFTER_S", 0.5)
    monkeypatch.setattr(sessions, "_LOOK_S", 1)


@pytest.fixture(params=DRIVERS)
def url(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> sa.URL:
    engine, driver = DRIVERS[request.param]
    return sa.make_url(new_database(engine)).set(drivername=driver)


@pytest.fixture
def proxy(url: sa.URL) -> Iterator[SilentProxy]:
    assert url.port is not None
    with silent_proxy(url.port) as proxy:
        yield proxy


@pytest.fixture
def engine(url: sa.URL, proxy: SilentProxy) -> Engine:
    return open_engine(url.set(host="127.0.0.1", port=proxy.port), "primary", pooled=False)


def test_a_thread_that_waits_for_a_lost_answer_gets_an_error(
    engine: Engine, proxy: SilentProxy, caplog: pytest.LogCaptureFixture
) -> None:
    with watched_connections(), engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        proxy.silence()
        began = time.monotonic()
        with pytest.raises(exc.OperationalError) as raised:
            connection.execute(sa.text("SELECT 2"))
        assert time.monotonic() - began < 5
        assert raised.value.connection_invalidated
    assert "the server waits for the client" in caplog.text
    assert "SELECT 2" not in caplog.text.replace('sa.text("SELECT 2")', "")
    assert "test_a_thread_that_waits_for_a_lost_answer" in caplog.text


@pytest.mark.parametrize("url", ["psycopg", "pymysql"], indirect=True)
def test_a_session_that_was_ended_without_a_word(
    engine: Engine, url: sa.URL, proxy: SilentProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The standby of a worker ends the session of its predecessor, which the network keeps from the predecessor."""
    is_mysql = url.get_backend_name() == "mysql"
    number, end = (
        ("CONNECTION_ID()", "KILL {}") if is_mysql else ("pg_backend_pid()", "SELECT pg_terminate_backend({})")
    )
    operator = sa.create_engine(url, poolclass=sa.NullPool)
    with watched_connections(), engine.connect() as connection:
        session = connection.scalar(sa.text(f"SELECT {number}"))
        proxy.silence()
        with operator.connect() as ending:
            ending.exec_driver_sql(end.format(session))
        began = time.monotonic()
        with pytest.raises(exc.OperationalError):
            connection.execute(sa.text("SELECT 2"))
        assert time.monotonic() - began < 5
    assert ("the server has ended the session" if is_mysql else "the server waits for the client") in caplog.text


def test_a_commit_whose_answer_is_lost_gets_an_error(engine: Engine, proxy: SilentProxy) -> None:
    with watched_connections(), engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        proxy.silence()
        with pytest.raises(exc.OperationalError):
            connection.commit()


def test_a_server_that_answers_no_new_connection_either(engine: Engine, proxy: SilentProxy) -> None:
    with watched_connections(), engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        proxy.silence_all()
        with pytest.raises(exc.OperationalError):
            connection.execute(sa.text("SELECT 2"))


def test_a_thread_in_a_statement_is_undecided_until_the_first_look(engine: Engine) -> None:
    watch, own = SilenceWatch(), threading.get_ident()
    before = time.monotonic()
    assert watch.is_undecided(own, before)
    watch.tick()
    watch.tick()
    # The thread is in no driver, so no look will come.
    assert not watch.is_undecided(own, before)
    decided: list[bool] = []

    def tick_three_times() -> None:
        for _ in range(2):
            watch.tick()
        decided.append(not watch.is_undecided(own, time.monotonic()))
        time.sleep(silence._LOOK_AFTER_S)
        watch.tick()
        decided.append(not watch.is_undecided(own, time.monotonic()))

    with engine.connect() as connection:
        ticking = threading.Timer(0.3, tick_three_times)
        ticking.start()
        connection.execute(sa.text(SLEEP[engine.dialect.name]))
        ticking.join()
    assert decided == [False, True]


def test_a_long_statement_is_not_cut(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with watched_connections() as watch, engine.connect() as connection:
        states = []
        own = threading.get_ident()
        seen = threading.Timer(1.5, lambda: states.append(watch.state_of(own)))
        seen.start()
        connection.execute(sa.text(SLEEP[engine.dialect.name]))
        seen.join()
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
    assert states == [SessionState.WORKING]
    assert "silent" not in caplog.text


def test_a_statement_that_waits_for_a_lock_is_not_cut(engine: Engine, url: sa.URL) -> None:
    other = sa.create_engine(url, poolclass=sa.NullPool)
    with other.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id int PRIMARY KEY) "))
        connection.execute(sa.text("INSERT INTO t VALUES (1)"))
    with watched_connections(), other.connect() as holder, engine.begin() as connection:
        holder.execute(sa.text("UPDATE t SET id = 2"))
        release = threading.Timer(1.5, holder.rollback)
        release.start()
        connection.execute(sa.text("UPDATE t SET id = 3"))
        release.join()


def test_a_thread_that_does_something_else_keeps_its_connection(engine: Engine) -> None:
    with watched_connections(), engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        time.sleep(1.5)
        assert connection.execute(sa.text("SELECT 2")).scalar_one() == 2
