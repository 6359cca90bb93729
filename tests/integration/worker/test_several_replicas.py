"""One process serves several replicas, and a replica that stops leaves the others alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from rowcast.consumer import replica_status
from rowcast.consumer.worker.metrics import WorkerMetrics, together
from rowcast.shared.config.settings import load
from servers import Broker
from support.command_line import environment, rowcast, started
from support.kafka_source import Source, column, shape
from support.worker_runs import Database

ITEM = shape("item", column("n"))
ENGINES = ["postgresql", "mariadb", "sqlite"]
PATIENCE_S = 60.0


class World:
    def __init__(self, new_database: Callable[[str], str], kafka: Broker, name: str, folder: Path) -> None:
        self.folder = folder
        self.urls = {engine: new_database(engine) for engine in ENGINES}
        self.replicas = {engine: Database(url) for engine, url in self.urls.items()}
        sections = [f'[replicas.{engine}]\nurl = "{url}"' for engine, url in self.urls.items()]
        kafka_section = f'[kafka]\n"bootstrap.servers" = "{kafka.bootstrap_servers}"'
        (folder / "rowcast.toml").write_text("\n".join([f'source = "{name}"', kafka_section, *sections]))
        self.source = Source(kafka.bootstrap_servers, name)
        self.source.add(ITEM)
        self.settings = load(folder / "rowcast.toml")

    def rows(self) -> dict[str, int]:
        return {name: len(replica.rows("item", "id")) for name, replica in self.replicas.items()}


@pytest.fixture
def world(new_database: Callable[[str], str], kafka: Broker, source_name: str, tmp_path: Path) -> World:
    return World(new_database, kafka, source_name, tmp_path)


def test_one_command_brings_all_replicas_up_to_date(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.source.transaction(("c", "item", {"id": 1, "n": 1}))
    assert rowcast("worker", "--all", "--once", cwd=world.folder).returncode == 0
    assert world.rows() == dict.fromkeys(ENGINES, 1)
    world.replicas["sqlite"].execute("CREATE UNIQUE INDEX mine ON item (n)")
    world.source.transaction(("c", "item", {"id": 2, "n": 1}))
    stopped = rowcast("worker", "postgresql", "sqlite", "mariadb", "--once", cwd=world.folder)
    assert stopped.returncode == 1
    # A line of the log names the replica.
    assert "a constraint of the replica refuses the change" in stopped.stderr
    assert "replica=sqlite" in stopped.stderr
    assert world.rows() == {"postgresql": 2, "mariadb": 2, "sqlite": 1}


def test_a_replica_that_has_stopped_is_tried_again_while_the_others_go_on(world: World) -> None:
    world.replicas["sqlite"].execute("CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER UNIQUE)")
    world.source.transaction(("c", "item", {"id": 1, "n": 1}))
    assert rowcast("worker", "--all", "--once", cwd=world.folder).returncode == 0

    def until(expected: dict[str, int]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while world.rows() != expected:
            assert time.monotonic() < deadline, world.rows()
            time.sleep(0.05)

    command = [*_python(), "worker", "sqlite", "postgresql", "--metrics", "0"]
    with started(command, world.folder, environment()):
        world.source.transaction(("c", "item", {"id": 2, "n": 1}))
        until({"postgresql": 2, "mariadb": 1, "sqlite": 1})
        assert replica_status(world.settings, "sqlite").state in ("stopped", "consistent")
        world.replicas["sqlite"].execute("DELETE FROM item WHERE id = 1")
        world.source.transaction(("c", "item", {"id": 3, "n": 3}))
        until({"postgresql": 3, "mariadb": 1, "sqlite": 2})


def _python() -> list[str]:
    import sys

    return [sys.executable, "-c", "from rowcast.shared.cli import main; main()"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["worker"], "Missing argument 'REPLICA'"),
        (["worker", "a", "--all"], "--all is every replica"),
        (["worker", "postgresql", "postgresql"], "a replica is named twice: postgresql, postgresql"),
        (["worker", "postgresql", "sqlit"], "no replica 'sqlit'"),
        (["worker", "postgresql", "sqlite", "--skip", "7"], "--skip is for a single replica"),
    ],
)
def test_wrong_use_is_named(arguments: list[str], message: str, tmp_path: Path) -> None:
    replicas = "".join(f'[replicas.{name}]\nurl = "sqlite:///{name}.db"\n' for name in ("postgresql", "sqlite"))
    (tmp_path / "rowcast.toml").write_text(f'source = "shop"\n{replicas}')
    result = rowcast(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr


def test_the_metrics_of_several_workers_are_one_document() -> None:
    registry = CollectorRegistry()
    registry.register(together([WorkerMetrics("shop", "a"), WorkerMetrics("shop", "b")]))
    text = generate_latest(registry).decode()
    assert text.count("# TYPE rowcast_worker_active gauge") == 1
    assert 'rowcast_worker_active{replica="b",source="shop"} 0.0' in text
