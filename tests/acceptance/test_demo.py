"""Run ``rowcast demo`` as a user does: as a separate process in an empty directory."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.databases import NewDatabase
from servers import Broker
from support.command_line import environment, rowcast, rowcast_process, started


def run_demo(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return rowcast_process("demo", *options, cwd=directory, timeout=120)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run the demo twice in a directory. Return the directory and the output of the run with default options.

    The first run has settings of the user's own project in its environment.
    """
    directory = tmp_path_factory.mktemp("demo")
    others = {"ROWCAST_PRIMARY__URL": "postgresql://nobody@127.0.0.1:1/x", "ROWCAST_SOURCE": "other"}
    first = rowcast_process("demo", "--seconds", "0.5", cwd=directory, env=others, timeout=120)
    assert first.returncode == 0, f"the user's settings reach the demo: {first.stderr}"
    return directory, run_demo(directory)


@pytest.fixture
def unchanged(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> Iterator[None]:
    """Give the next test the databases as they were before."""
    directory = demo[0] / "rowcast-demo"
    kept = directory.with_name("kept")
    shutil.copytree(directory, kept)
    yield
    shutil.rmtree(directory)
    kept.rename(directory)


Run = tuple[Path, subprocess.CompletedProcess[str]]


def run_as_printed(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that the demo prints. ``rowcast`` runs inside this process, and any other program in a shell."""
    program, *arguments = shlex.split(command, comments=True)
    if Path(program).name == "rowcast":
        return rowcast(*arguments, cwd=directory)
    return subprocess.run(
        command, shell=True, cwd=directory, env=environment(), capture_output=True, text=True, check=False
    )


def rows(database: Path, statement: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def test_the_demo_ends_with_equal_databases(demo: Run) -> None:
    _, result = demo
    assert result.returncode == 0, result.stderr
    assert "Primary and replica are equal." in result.stdout
    assert "Traceback" not in result.stderr


def test_both_databases_stay_and_hold_the_same_rows(demo: Run) -> None:
    place = demo[0] / "rowcast-demo"
    for table, key in (("customers", "id"), ("products", "id"), ("orders", "id"), ("order_lines", "order_id, line")):
        ordered = f"SELECT * FROM {table} ORDER BY {key}"
        ours, theirs = rows(place / "primary.db", ordered), rows(place / "replica.db", ordered)
        assert len(ours) > 10
        assert ours == theirs


def test_every_committed_change_of_the_shop_is_one_event(demo: Run) -> None:
    counts = re.search(r"([\d,]+) row changes in ([\d,]+) transactions, ([\d,]+) events", demo[1].stdout)
    assert counts is not None
    changes, transactions, events = (int(number.replace(",", "")) for number in counts.groups())
    assert changes == events > 100
    assert transactions > 20
    place = demo[0] / "rowcast-demo"
    assert rows(place / "replica.db", "SELECT count(*) FROM order_lines WHERE line = 99") == [(0,)]
    assert rows(place / "primary.db", "SELECT count(*) FROM rowcast_outbox") == [(0,)]
    assert rows(place / "replica.db", "SELECT count(*) FROM orders WHERE note = 'without a gift'") > [(0,)]


def test_relay_and_worker_were_processes_that_ended_in_order(demo: Run) -> None:
    for command in ("relay", "worker"):
        text = (demo[0] / "rowcast-demo" / f"{command}.log").read_text("utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        assert any("SIGTERM" in line["message"] for line in lines)
        assert not [line for line in lines if line["level"] in ("error", "critical")]


@pytest.mark.usefixtures("unchanged")
def test_the_three_next_commands_work_as_printed(demo: Run) -> None:
    commands = demo[1].stdout.partition("Next steps:\n")[2].splitlines()
    assert len(commands) == 3
    placed, equal, different = (run_as_printed(command, demo[0]) for command in commands)
    assert "placed" in placed.stdout
    assert equal.returncode == 0, equal.stderr
    assert "equal" in equal.stdout
    assert different.returncode == 1, different.stderr
    assert "id=1: name" in different.stdout


def test_without_a_terminal_the_demo_prints_rows_events_and_lag_in_lines(demo: Run) -> None:
    lines = [line for line in demo[1].stderr.splitlines() if "rows_written=" in line]
    assert len(lines) > 3
    assert all("events_published=" in line and "lag=" in line for line in lines)
    assert "in memory, for demonstrations and tests only" in demo[1].stderr


def test_the_demo_replaces_its_directory(demo: Run) -> None:
    assert demo[1].returncode == 0, demo[1].stderr
    (config,) = demo[0].rglob("rowcast.toml")
    assert config == demo[0] / "rowcast-demo" / "rowcast.toml"


def test_the_demo_refuses_a_directory_that_it_did_not_create(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "primary.db").write_text("not the demo's")
    refused = rowcast("demo", "--directory", "mine", cwd=tmp_path)
    assert refused.returncode == 2
    assert "the demo did not create it" in refused.stderr
    assert (tmp_path / "mine" / "primary.db").read_text() == "not the demo's"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_demo_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "rowcast.shared.cli", "demo", "--seconds", "60"]
    with started(command, tmp_path, environment()) as process:
        stderr = process.stderr
        assert stderr is not None
        # From this line on, relay and worker run.
        for line in iter(stderr.readline, ""):
            if "the shop is open" in line:
                break
        children = children_of(process.pid)
        assert len(children) == 2
        process.send_signal(number)
        _, output = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert "stopped before the databases were compared" in output
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_database_with_foreign_tables_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    connection.close()
    for option in ("--primary", "--replica"):
        refused = rowcast("demo", option, f"sqlite:///{tmp_path}/shop.db", cwd=tmp_path)
        assert refused.returncode == 2
        assert "did not create: orders" in refused.stderr
    same = rowcast("demo", "--primary", "sqlite:///x.db", "--replica", "sqlite:///x.db", cwd=tmp_path)
    assert same.returncode == 2
    assert "are the same database" in same.stderr


@pytest.mark.parametrize(
    ("primary", "replica"),
    [("postgresql", "mariadb"), pytest.param("mariadb", "postgresql", marks=pytest.mark.only_in_campaigns)],
)
def test_the_demo_works_on_real_servers(
    tmp_path: Path, kafka: Broker, new_database: NewDatabase, primary: str, replica: str
) -> None:
    options = ("--kafka", kafka.bootstrap_servers, "--seconds", "1")
    databases = ("--primary", new_database(primary), "--replica", new_database(replica))
    # The second run is on the databases of the first. One pair of engines is enough for that.
    for _ in range(2 if primary == "postgresql" else 1):
        result = run_demo(tmp_path, *options, *databases)
        assert result.returncode == 0, result.stderr
        assert "Primary and replica are equal." in result.stdout
    commands = result.stdout.partition("Next steps:\n")[2].splitlines()
    assert any(" status " in command for command in commands)
    for command in commands:
        ran = run_as_printed(command, tmp_path)
        assert ran.returncode == 0, ran.stderr
    source = re.search(r'source = "(.*)"', (tmp_path / "rowcast-demo/rowcast.toml").read_text())
    assert source is not None
    taken = rowcast("demo", *options, *databases, "--source", source.group(1), cwd=tmp_path)
    assert taken.returncode == 2
    assert "Choose another source with --source" in taken.stderr
