"""Run the commands as processes on real servers: findings about topics, status, --once, SIGTERM."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import NewTopic
from jsonschema import Draft202012Validator, ValidationError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from rowcast.producer import Capture
from servers import Broker
from servers.guard import Guard
from support.command_line import environment, rowcast
from support.forked_python import ForkedPython
from support.kafka_admin import create_topics
from support.relay.threads import wait_until

STATUS_SCHEMA = json.loads((Path(__file__).parents[3] / "docs/reference/status.schema.json").read_text())


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


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
    document = json.loads(rowcast("status", "--json", cwd=place).stdout)
    Draft202012Validator(STATUS_SCHEMA).validate(document)
    return document


def test_the_schema_of_the_reference_is_that_of_the_command(place: Path, tmp_path: Path) -> None:
    # No configuration is read.
    assert json.loads(done(tmp_path.parent, "status", "--json-schema")) == STATUS_SCHEMA
    Draft202012Validator.check_schema(STATUS_SCHEMA)
    for key, wrong in (("outbox", {"rows": 1}), ("replicas", {"r": {"state": "fine"}}), ("problems", "none"), ("x", 1)):
        with pytest.raises(ValidationError):
            Draft202012Validator(STATUS_SCHEMA).validate({**status(place), key: wrong})


def test_servers_that_do_not_answer_are_in_the_schema(place: Path) -> None:
    config = (place / "rowcast.toml").read_text()
    (place / "primary.db").unlink(missing_ok=True)
    (place / "rowcast.toml").write_text(re.sub(r"sqlite:///[^\n]*replica.db", "sqlite:////no/such/place/x.db", config))
    found = status(place)
    assert not found["ok"]


def test_status_follows_rows_from_the_outbox_to_the_replica(
    place: Path, sessions: sessionmaker[Session], source_name: str
) -> None:
    write(sessions, 1, 2)
    before = status(place)
    assert (before["outbox"]["rows"], before["outbox"]["leading"]) == (1, False)
    assert before["outbox"]["oldest_ms"] > 0
    assert not before["ok"]
    assert before["problems"] == [
        "no relay leads, and 1 outbox rows wait: start `rowcast relay`",
        "no worker of replica r has run yet: start `rowcast worker r`",
    ]
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
    replica = status(place)["replicas"]["r"]
    assert (replica["behind_ms"], replica["records"], replica["outbox_read"], replica["workers"]) == (0, 0, True, 0)
    write(sessions, 4)
    replica = status(place)["replicas"]["r"]
    assert replica["records"] == 0
    assert replica["behind_ms"] > 0
    done(place, "relay", "--once")
    done(place, "worker", "r", "--once")
    output = done(place, "status")
    assert output.startswith("all right\n")
    assert "state      consistent up to lsn" in output
    assert "equal: 4 rows in 1 table\n" in done(place, "verify", "r")


def test_verify_names_differences_and_repairs_them(place: Path, sessions: sessionmaker[Session]) -> None:
    write(sessions, 1)
    done(place, "relay", "--once")
    done(place, "worker", "r", "--once")
    with closing(sqlite3.connect(place / "replica.db")) as replica, replica:
        replica.execute("UPDATE orders SET id = 2")

    def verify(*options: str, code: int = 1) -> str:
        result = rowcast("verify", "r", *options, cwd=place)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    found = json.loads(rowcast("verify", "r", "--json", cwd=place).stdout)
    assert (found["verdict"], found["tables"][0]["missing"], found["tables"][0]["extra"]) == ("different", 1, 1)
    assert status(place)["replicas"]["r"]["verified"]["differing"] == 2
    assert "rows=1 deletes=1" in verify("--repair", "--dry-run")
    assert status(place)["outbox"]["rows"] == 0
    # No relay runs, so nothing has arrived when the command compares again.
    assert "behind: 2 rows could not be compared" in verify("--repair", "--wait", "0")
    # The status is that after the repair.
    assert status(place)["replicas"]["r"]["verified"]["verdict"] == "behind"
    done(place, "relay", "--once")
    done(place, "worker", "r", "--once")
    assert "equal: 1 row in 1 table" in verify(code=0)
    assert "verified" in done(place, "status")
    assert "--dry-run belongs to --repair" in verify("--dry-run", code=2)


def test_verify_of_nothing_is_no_success(place: Path, sessions: sessionmaker[Session]) -> None:
    write(sessions, 1)
    with sessions.begin() as session:
        session.execute(sa.delete(Order))
    result = rowcast("verify", "r", cwd=place)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (1, "nothing compared: no row in 1 table")


def test_check_accepts_the_topics_that_the_relay_created(place: Path, sessions: sessionmaker[Session]) -> None:
    write(sessions, 1)
    assert "does not exist yet" in done(place, "check")
    done(place, "relay", "--once")
    done(place, "worker", "r", "--once")
    output = done(place, "check")
    assert re.search(r"^ok +Kafka: +3 topics have the right cleanup policy and replication$", output, re.MULTILINE)
    assert re.search(r"^ok +replica 'r': +consistent up to lsn", output, re.MULTILINE)
    assert re.search(r"^ok +replica 'r': +the user of this process has the rights that", output, re.MULTILINE)
    assert output.endswith("no problems found\n")


def test_check_names_topics_with_wrong_settings(
    place: Path, kafka: Broker, sessions: sessionmaker[Session], source_name: str
) -> None:
    write(sessions, 1)
    table, transactions = f"{source_name}.main.orders", f"{source_name}.transaction"
    wrong = [
        NewTopic(table, 1, 1, config={"cleanup.policy": "delete"}),
        NewTopic(transactions, 2, 1, config={"cleanup.policy": "delete"}),
    ]
    create_topics(kafka.bootstrap_servers, *wrong)
    result = rowcast("check", cwd=place)
    assert result.returncode == 1
    assert f"missing Kafka: topic {table} has cleanup.policy=delete, not compact" in " ".join(result.stdout.split())
    assert f"--entity-name {table} --add-config cleanup.policy=compact" in result.stdout
    assert f"topic {transactions} has 2 partitions, but only the first is used" in result.stdout


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    guard = Guard()
    yield guard
    guard.close()


@pytest.mark.parametrize("command", ["relay", "worker r"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_in_order(
    place: Path, sessions: sessionmaker[Session], guard: Guard, command: str, number: signal.Signals
) -> None:
    write(sessions, 1)
    if command != "relay":
        done(place, "relay", "--once")
    arguments = [*command.split(), "--log-format", "json", "--progress-interval", "0.1"]
    log = place / "command.log"
    process = ForkedPython(["-m", "rowcast.shared.cli", *arguments], log, guard, cwd=place, environment=environment())
    try:
        # The first progress line shows that the process is at work.
        wait_until(lambda: '"events":1' in log.read_text())
        process.send_signal(number)
        assert process.wait(30) == 0
    finally:
        process.kill()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(signal.Signals(number).name in line["message"] for line in lines)
    assert not [line for line in lines if line["level"] in ("error", "critical")]
