"""The commands as processes, on real servers: check's look at the topics, status, --once, SIGTERM."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from command_line import environment, rowcast, started
from rowcast.producer import Capture
from servers import Broker


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def place(tmp_path: Path, kafka: Broker, source_name: str) -> Path:
    (tmp_path / "rowcast.toml").write_text(
        f'source = "{source_name}"\n[kafka]\n"bootstrap.servers" = "{kafka.bootstrap_servers}"\n'
        f'[primary]\nurl = "sqlite:///{tmp_path}/primary.db"\n[replicas.r]\nurl = "sqlite:///{tmp_path}/replica.db"\n'
    )
    return tmp_path


@pytest.fixture
def sessions(place: Path, source_name: str) -> Iterator[sessionmaker[Session]]:
    engine = sa.create_engine(f"sqlite:///{place}/primary.db")
    sessions = sessionmaker(engine)
    Capture(Base.metadata, source=source_name).install(sessions)
    Base.metadata.create_all(engine)
    yield sessions
    engine.dispose()


def write(sessions: sessionmaker[Session], *ids: int) -> None:
    with sessions.begin() as session:
        session.add_all([Order(id=n) for n in ids])


def done(place: Path, *arguments: str) -> str:
    result = rowcast(*arguments, cwd=place)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def status(place: Path) -> Any:
    return json.loads(done(place, "status", "--json"))


def test_status_follows_rows_from_the_outbox_to_the_replica(
    place: Path, sessions: sessionmaker[Session], source_name: str
) -> None:
    write(sessions, 1, 2)
    before = status(place)
    assert (before["outbox"]["rows"], before["outbox"]["leading"]) == (1, False)
    assert before["outbox"]["oldest_ms"] > 0
    assert before["replicas"]["r"]["state"] is None
    assert not (place / "replica.db").exists()
    done(place, "relay", "--once")
    done(place, "worker", "r", "--once")
    write(sessions, 3)
    done(place, "relay", "--once")
    behind = status(place)
    assert behind["outbox"]["rows"] == 0
    replica = behind["replicas"]["r"]
    assert replica["state"] == "consistent"
    assert replica["topics"][f"{source_name}.main.orders"] > 0
    assert replica["behind_ms"] > 0
    done(place, "worker", "r", "--once")
    assert status(place)["replicas"]["r"]["behind_ms"] == 0
    assert f"{source_name}.main.orders" in done(place, "status")
    assert "equal: 3 rows in 1 tables" in done(place, "verify", "r")


def test_check_is_content_with_what_the_relay_made(place: Path, sessions: sessionmaker[Session]) -> None:
    write(sessions, 1)
    assert "does not exist yet" in done(place, "check")
    done(place, "relay", "--once")
    done(place, "worker", "r", "--once")
    output = done(place, "check")
    assert "Kafka: 3 topics, kept as they must be" in output
    assert "replica 'r': consistent up to lsn" in output
    assert output.endswith("all is well\n")


def test_check_names_topics_that_do_not_keep_what_they_must(
    place: Path, kafka: Broker, sessions: sessionmaker[Session], source_name: str
) -> None:
    write(sessions, 1)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    table, transactions = f"{source_name}.main.orders", f"{source_name}.transaction"
    wrong = [
        NewTopic(table, 1, 1, config={"cleanup.policy": "delete"}),
        NewTopic(transactions, 2, 1, config={"cleanup.policy": "delete"}),
    ]
    for made in admin.create_topics(wrong).values():
        made.result(30)
    result = rowcast("check", cwd=place)
    assert result.returncode == 1
    assert f"missing      Kafka: topic {table} has cleanup.policy=delete, not compact" in result.stdout
    assert f"--entity-name {table} --add-config cleanup.policy=compact" in result.stdout
    assert f"topic {transactions} has 2 partitions; all but the first stay empty" in result.stdout


@pytest.mark.parametrize("command", ["relay", "worker r"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_in_order(
    place: Path, sessions: sessionmaker[Session], command: str, number: signal.Signals
) -> None:
    write(sessions, 1)
    if command != "relay":
        done(place, "relay", "--once")
    arguments = [*command.split(), "--log-format", "json", "--progress-interval", "0.1"]
    with started([sys.executable, "-m", "rowcast.shared.cli", *arguments], place, environment()) as process:
        stderr = process.stderr
        assert stderr is not None
        # It has told its first progress: it is at work.
        lines = [json.loads(line) for line in iter_until(stderr, '"events":1')]
        process.send_signal(number)
        _, rest = process.communicate(timeout=30)
    assert process.returncode == 0
    lines += [json.loads(line) for line in rest.splitlines()]
    assert any(signal.Signals(number).name in line["message"] for line in lines)
    assert not [line for line in lines if line["level"] in ("error", "critical")]


def iter_until(stream: Iterator[str], text: str) -> Iterator[str]:
    for line in stream:
        yield line
        if text in line:
            return
