"""Test the servers for the other tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from servers import Broker, DatabaseServer, ServerError, install, sid
from servers import guard as guard_module
from servers.guard import Guard, is_alive, wait_until_gone
from servers.paths import TESTS
from support.kafka_admin import create_topics


@contextlib.contextmanager
def engine_of(url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def create_topic(kafka: Broker, topic: str) -> None:
    create_topics(kafka.bootstrap_servers, NewTopic(topic, 1, 1))


def produce(kafka: Broker, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "acks": "all", "log_level": 0})
    producer.produce(topic, value)
    assert producer.flush(20) == 0


def read(kafka: Broker, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": topic, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        return [message.value() for message in consumer.consume(count, timeout=20)]
    finally:
        consumer.close()


def test_a_fresh_database_is_empty_and_takes_tables(primary_url: str) -> None:
    with engine_of(primary_url) as engine:
        assert sa.inspect(engine).get_table_names() == []
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE t (id integer PRIMARY KEY)"))
        assert sa.inspect(engine).get_table_names() == ["t"]


@pytest.mark.parametrize("name", ["postgresql", "mariadb", "mysql"])
def test_a_database_is_dropped_under_an_open_transaction(request: pytest.FixtureRequest, name: str) -> None:
    server = request.getfixturevalue(name)
    assert isinstance(server, DatabaseServer)
    with engine_of(server.create_database("left_open")) as engine:
        connection = engine.connect()
        connection.execute(sa.text("CREATE TABLE t (id integer PRIMARY KEY)"))
        connection.commit()
        connection.execute(sa.text("INSERT INTO t VALUES (1)"))

        server.drop_database("left_open")

        connection.invalidate()
        connection.close()
    server.create_database("left_open")
    server.drop_database("left_open")


@pytest.mark.parametrize(
    ("name", "end"), [("postgresql", "stop"), ("postgresql", "kill"), ("mariadb", "stop"), ("mysql", "kill")]
)
def test_committed_rows_outlive_the_database_server(
    request: pytest.FixtureRequest, new_database: Callable[[str], str], name: str, end: str
) -> None:
    server = request.getfixturevalue(name)
    url = new_database(name)
    with engine_of(url) as engine, engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (id integer PRIMARY KEY)"))
        connection.execute(sa.text("INSERT INTO t VALUES (7)"))

    getattr(server, end)()
    with engine_of(url) as engine, pytest.raises(sa.exc.OperationalError):
        engine.connect()
    server.start()

    with engine_of(url) as engine, engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT id FROM t")) == 7


def test_records_outlive_a_killed_broker(kafka: Broker, source_name: str) -> None:
    create_topic(kafka, source_name)
    produce(kafka, source_name, b"before")

    kafka.kill()
    kafka.start()

    produce(kafka, source_name, b"after")
    assert read(kafka, source_name, 2) == [b"before", b"after"]


def test_a_paused_broker_answers_again_when_it_is_resumed(kafka: Broker, source_name: str) -> None:
    create_topic(kafka, source_name)

    kafka.pause()
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=0.5)
    kafka.resume()

    produce(kafka, source_name, b"after")
    assert read(kafka, source_name, 1) == [b"after"]


def test_no_topic_comes_into_being_by_itself(kafka: Broker, source_name: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    admin.list_topics(source_name, timeout=20)

    assert source_name not in admin.list_topics(timeout=20).topics


@pytest.fixture
def folder_open_to_servers() -> Iterator[Path]:
    """Create a folder that database servers can enter. tmp_path is closed to other users if root runs the tests."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_was_ended(folder_open_to_servers: Path, ended_by: signal.Signals) -> None:
    inside = "import os, sys; print(os.environ['POSTGRESQL_URL'], flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-m", "servers", "run", "postgresql", "--", sys.executable, "-c", inside],
        cwd=TESTS,
        env={**os.environ, "TMPDIR": str(folder_open_to_servers), "TEST_SERVERS": "local"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout
        assert run.stdout.readline().startswith("postgresql+psycopg://")
        (folder,) = folder_open_to_servers.iterdir()
        server = int((folder / "postgresql/data/postmaster.pid").read_text().split()[0])
        assert is_alive(server)

        run.send_signal(ended_by)

    assert wait_until_gone(server, 20)
    assert _is_emptied(folder_open_to_servers, 20)


def _is_emptied(folder: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(folder.iterdir()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def without_sid(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ServerError("no way to Debian's packages\nand a long log")

    monkeypatch.setattr(install, "docker_answers", lambda: False)
    monkeypatch.setattr(sid, "is_installed", lambda: False)
    monkeypatch.setattr(sid, "install", fail)


@pytest.mark.usefixtures("without_sid")
def test_an_engine_that_cannot_be_installed_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)

    assert install.install_available("mysql", "postgresql") == {"mysql": "no way to Debian's packages"}


@pytest.mark.usefixtures("without_sid")
def test_no_engine_may_be_missing_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    with pytest.raises(ServerError, match="no way to Debian's packages"):
        install.install_available("mysql", "postgresql")


def test_the_guard_ends_its_processes_and_no_other_that_has_got_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long campaign once ended itself: one of its threads had the number of a process that had ended."""
    guard = Guard()
    with (
        subprocess.Popen(["sleep", "60"], start_new_session=True) as own,
        subprocess.Popen(["sleep", "60"], start_new_session=True) as other,
    ):
        guard.watch_process(own.pid, signal.SIGKILL)
        monkeypatch.setattr(guard_module, "started_at", lambda _pid: "1")
        guard.watch_process(other.pid, signal.SIGKILL)
        guard.close()
        try:
            assert own.wait(5) == -signal.SIGKILL
            assert other.poll() is None
        finally:
            other.kill()
