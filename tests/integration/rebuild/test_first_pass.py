"""Several processes fill the tables of a rebuild, and the result is that of one process, whatever is killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from rowcast.consumer.reading.key_partitions import partitions_of_keys
from rowcast.consumer.rebuild.options import RebuildOptions
from rowcast.consumer.rebuild.progress import OnRebuildProgress, RebuildProgress, RebuildStoppedError
from rowcast.consumer.rebuild.rebuild import rebuild
from rowcast.consumer.rebuild.rebuild_elsewhere import rebuild_into
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError, RetriableError
from rowcast.shared.kafka.topic_names import table_topic
from servers import Broker
from servers.guard import Guard
from support.forked_python import ForkedPython
from support.kafka_admin import create_partitions
from support.kafka_source import Source, column, shape
from support.project import TESTS
from support.rebuilds import Writer, rebuilt
from support.worker_runs import CUSTOMER, NAME, ORDERS, Database, settings_for, work_once

ENGINES = ["postgresql", "mariadb", "mysql"]
_LOCK = {
    "postgresql": "LOCK TABLE rowcast_new_customer IN SHARE MODE",
    "mysql": "LOCK TABLES rowcast_new_customer READ",
}
_MARK = "ROWCAST_TEST_OF"


@pytest.fixture(params=["postgresql"])
def replica(request: pytest.FixtureRequest, new_database: Callable[[str], str]) -> Database:
    return Database(new_database(request.param))


@pytest.fixture
def source(kafka: Broker, source_name: str, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Publish customers and orders to two partitions each."""
    monkeypatch.setenv(_MARK, source_name)
    source = Source(kafka.bootstrap_servers, source_name, partitions=2)
    source.add(CUSTOMER, ORDERS)
    return source


@pytest.fixture
def settings(source: Source, replica: Database) -> Settings:
    return settings_for(source.name, source.bootstrap, replica.engine.url.render_as_string(hide_password=False))


def _processes(mark: str) -> dict[int, int]:
    """Return the processes of rebuilds with this mark in their environment, and their parents, by id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                status = (folder / "stat").read_text().rpartition(")")[2].split()
                if status[0] != "Z" and b"share_process" in (folder / "cmdline").read_bytes():
                    found[int(folder.name)] = int(status[1])
        except OSError:
            continue  # The process has ended meanwhile.
    return found


def _wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _at_first(phase: str, act: Callable[[], None]) -> OnRebuildProgress:
    """Return a listener that acts once, before the processes have their jobs."""
    acted = threading.Event()

    def note(progress: RebuildProgress) -> None:
        if progress.phase == phase and not acted.is_set():
            acted.set()
            act()

    return note


def _rebuild(settings: Settings, *, processes: int = 2, act: Callable[[], None] = lambda: None) -> None:
    options = RebuildOptions(is_verified=False, processes=processes)
    rebuild(settings, NAME, options, stop=threading.Event(), on_progress=_at_first("loading", act))


def _shares(replica: Database) -> list[str]:
    return [name for (name,) in replica.rows("rowcast_replica", "source") if name[-2:] in ("+1", "+2", "+3")]


@pytest.mark.shared_dialect
@pytest.mark.parametrize("replica", ENGINES, indirect=True)
def test_a_rebuild_whose_processes_are_killed_goes_on_and_ends_equal(
    settings: Settings, source: Source, replica: Database, tmp_path: Path
) -> None:
    writer = Writer(source)
    for _ in range(300):
        writer.write()
    with writer, closing(Guard()) as guard:
        _kill_the_rebuild(settings, source, guard, tmp_path / "log")
        _kill_a_process(settings, source, replica)
        # A share that is unfinished is finished, also by fewer processes.
        rebuilt(settings, processes=1)
    work_once(settings)
    expected = [(n,) for n in range(1, writer.number + 1)]
    assert sorted(replica.rows("customer", "id")) == sorted(replica.rows("orders", "id")) == expected
    assert replica.state() == "consistent"
    assert not _shares(replica)
    assert not [t for t in replica.tables() if "_new_" in t or "_old_" in t or "swap" in t]


def _kill_the_rebuild(settings: Settings, source: Source, guard: Guard, log: Path) -> None:
    """Kill a rebuild at a random moment of its load. All of its processes end."""
    url = settings.replica(NAME).url.get_secret_value()
    text = orjson.dumps({"source": source.name, "kafka": settings.kafka, "replicas": {NAME: {"url": url}}}).decode()
    ms = random.Random(os.environ.get("ROWCAST_SEED", source.name)).randrange(500)
    arguments = ["-m", "support.rebuild_process", str(ms), "loading", text]
    code = ForkedPython(arguments, log, guard, cwd=TESTS, environment=os.environ).wait(60)
    assert code in (0, -signal.SIGKILL), log.read_text()
    _wait_until(lambda: not _processes(source.name))


def _kill_a_process(settings: Settings, source: Source, replica: Database) -> None:
    """Kill a process that writes. The rebuild ends with an error, and all other processes end."""

    def kill() -> None:
        _wait_until(lambda: len(_processes(source.name)) == 3)
        found = _processes(source.name)
        forked = [pid for pid, parent in found.items() if parent in found]
        time.sleep(0.3)
        os.kill(forked[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    with replica.engine.connect() as connection:

        def hold() -> None:
            connection.exec_driver_sql(_LOCK[connection.dialect.name])
            killer.start()

        with pytest.raises(RetriableError, match=r"has ended \(signal 9\)"):
            _rebuild(settings, act=hold)
    killer.join(30)
    assert not _processes(source.name)
    assert len(_shares(replica)) == 2


def test_keys_that_partitions_were_added_between_are_read_in_order(
    settings: Settings, source: Source, replica: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for n in range(50):
        order = {"id": n, "customer_id": n, "note": "", "amount": "1.00"}
        source.put(("c", "customer", {"id": n, "email": "old"}), ("c", "orders", order))
    source.flush()
    topic = table_topic(source.name, "public", "customer")
    create_partitions(source.bootstrap, topic, 3)
    # A producer that starts now knows all partitions.
    later = Source(source.bootstrap, source.name, lsn=source.lsn, transactions=source.transactions)
    later.shapes = source.shapes
    for n in range(50):
        later.put(("u", "customer", {"id": n, "email": f"{n}"}))
    later.flush()
    _rebuild(settings, processes=3)
    assert {email for (email,) in replica.rows("customer", "email")} == {f"{n}" for n in range(50)}
    assert len(replica.rows("orders")) == 50
    assert f"topic {topic} has a key in another partition or form" in caplog.text


def test_only_the_same_command_goes_on_with_an_interrupted_load_and_it_notices_new_partitions(
    settings: Settings,
    source: Source,
    replica: Database,
    new_database: Callable[[str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    for n in range(50):
        source.put(("c", "customer", {"id": n, "email": f"old {n}"}))
    source.flush()
    url, stop = new_database("postgresql"), threading.Event()
    options = RebuildOptions(is_verified=False, processes=2)
    # Before the processes have their jobs.
    with pytest.raises(RebuildStoppedError):
        rebuild_into(settings, NAME, url, options, stop=stop, on_progress=_at_first("loading", stop.set))
    assert not _processes(source.name)
    elsewhere = settings_for(source.name, source.bootstrap, url)
    with pytest.raises(ConfigurationError, match="interrupted while several processes filled the tables"):
        work_once(elsewhere)
    topic = table_topic(source.name, "public", "customer")
    create_partitions(source.bootstrap, topic, 3)
    rebuild_into(settings, NAME, url, options, stop=threading.Event())
    assert f"topic {topic} has other partitions than before" in caplog.text
    assert work_once(elsewhere).state == "consistent"
    assert len(Database(url).rows("customer")) == 50


def test_the_error_of_a_process_is_that_of_the_rebuild_and_tables_follow_their_shapes(
    settings: Settings, source: Source, replica: Database
) -> None:
    for n in range(50):
        source.put(("c", "customer", {"id": n, "email": f"{n}"}))
    topic = table_topic(source.name, "public", "customer")
    key = next(key for key in (b'{"id":%d}' % n for n in range(50)) if partitions_of_keys([key], 2) == {1})
    source.send(topic, b"no event", key, 1)
    source.flush()
    said = rf"topic {topic}, partition 1, offset \d+.*rowcast rebuild copy --skip"
    with pytest.raises(DataError, match=said) as error:
        _rebuild(settings)
    assert not _processes(source.name)
    assert len(_shares(replica)) == 2
    assert error.value.skip is not None

    def change() -> None:
        source.add(shape("customer", column("email", "text"), column("name", "text"), unique=[("email",)]))
        source.transaction(("c", "customer", {"id": 50, "email": "50", "name": "new"}))

    # A restart discards all shares.
    options = RebuildOptions(is_verified=False, processes=2, restart=True, skip=[error.value.skip])
    rebuild(settings, NAME, options, stop=threading.Event(), on_progress=_at_first("loading", change))
    assert len(replica.rows("customer")) == 51
    assert ("new",) in replica.rows("customer", "name")
    assert not _shares(replica)
