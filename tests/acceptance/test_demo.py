"""``rowcast demo``, as a user runs it: a process of its own in an empty directory."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import environment, rowcast, started
from fix_databases import NewDatabase
from servers import Broker


def run_demo(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return rowcast("demo", *options, cwd=directory, timeout=120)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One run as it is by default: its directory, its output."""
    directory = tmp_path_factory.mktemp("demo")
    return directory, run_demo(directory)


Run = tuple[Path, subprocess.CompletedProcess[str]]


def rows(database: Path, statement: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def test_it_ends_with_equal_databases(demo: Run) -> None:
    _, result = demo
    assert result.returncode == 0, result.stderr
    assert "Primary and replica are equal." in result.stdout
    assert "Traceback" not in result.stderr


def test_both_databases_stay_and_hold_the_same_rows(demo: Run) -> None:
    place = demo[0] / "rowcast-demo"
    for table, key in (("customers", "id"), ("products", "id"), ("orders", "id"), ("order_lines", "order_id, line")):
        ordered = f"SELECT * FROM {table} ORDER BY {key}"
        ours, theirs = rows(place / "primary.db", ordered), rows(place / "replica.db", ordered)
        assert len(ours) > 50
        assert ours == theirs


def test_every_row_that_the_shop_changed_is_one_event_and_none_that_it_took_back(demo: Run) -> None:
    told = re.search(r"([\d,]+) row changes in ([\d,]+) transactions, ([\d,]+) events", demo[1].stdout)
    assert told is not None
    changes, transactions, events = (int(number.replace(",", "")) for number in told.groups())
    assert changes == events > 300
    assert transactions > 50
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


def test_the_three_commands_to_go_on_with_work_as_printed(tmp_path: Path) -> None:
    # A run of its own: one of the three changes the replica.
    result = run_demo(tmp_path, "--seconds", "2")
    commands = result.stdout.partition("To go on:\n")[2].splitlines()
    assert len(commands) == 3
    ran = [
        subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        for command in commands
    ]
    assert "placed" in ran[0].stdout
    assert ran[1].returncode == 0, ran[1].stderr
    assert "equal" in ran[1].stdout
    assert ran[2].returncode == 1, ran[2].stderr
    assert "id=1: name" in ran[2].stdout


def test_while_no_terminal_is_attached_it_tells_rows_events_and_lag_in_lines(demo: Run) -> None:
    lines = [line for line in demo[1].stderr.splitlines() if "rows_written=" in line]
    assert len(lines) > 3
    assert all("events_published=" in line and "lag=" in line for line in lines)
    assert "in memory, for demonstrations and tests only" in demo[1].stderr


def test_it_makes_its_directory_anew_and_refuses_anothers(tmp_path: Path) -> None:
    assert run_demo(tmp_path, "--seconds", "0.5").returncode == 0
    again = run_demo(tmp_path, "--seconds", "0.5")
    assert again.returncode == 0, again.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "primary.db").write_text("not the demo's")
    refused = run_demo(tmp_path, "--directory", "mine")
    assert refused.returncode == 2
    assert "was not made by the demo" in refused.stderr
    assert (tmp_path / "mine" / "primary.db").read_text() == "not the demo's"


def test_settings_of_the_users_own_do_not_reach_it(tmp_path: Path) -> None:
    others = {"ROWCAST_PRIMARY__URL": "postgresql://nobody@127.0.0.1:1/x", "ROWCAST_SOURCE": "other"}
    result = rowcast("demo", "--seconds", "0.5", cwd=tmp_path, env=others, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "rowcast.shared.cli", "demo", "--seconds", "60"]
    with started(command, tmp_path, environment()) as process:
        stderr = process.stderr
        assert stderr is not None
        # The shop is open, so that relay and worker run.
        for line in iter(stderr.readline, ""):
            if "the shop is open" in line:
                break
        children = children_of(process.pid)
        assert len(children) == 2
        process.send_signal(number)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in told
    assert "stopped before the databases were compared" in told
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_database_with_tables_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    connection.close()
    for option in ("--primary", "--replica"):
        refused = run_demo(tmp_path, option, f"sqlite:///{tmp_path}/shop.db")
        assert refused.returncode == 2
        assert "did not make: orders" in refused.stderr
    same = run_demo(tmp_path, "--primary", "sqlite:///x.db", "--replica", "sqlite:///x.db")
    assert same.returncode == 2
    assert "are the same database" in same.stderr


@pytest.mark.parametrize(("primary", "replica"), [("postgresql", "mariadb"), ("mariadb", "postgresql")])
def test_on_real_servers_it_works_again_and_again(
    tmp_path: Path, kafka: Broker, new_database: NewDatabase, primary: str, replica: str
) -> None:
    options = ("--kafka", kafka.bootstrap_servers, "--seconds", "2")
    databases = ("--primary", new_database(primary), "--replica", new_database(replica))
    for _ in range(2):
        result = run_demo(tmp_path, *options, *databases)
        assert result.returncode == 0, result.stderr
        assert "Primary and replica are equal." in result.stdout
    commands = result.stdout.partition("To go on:\n")[2].splitlines()
    assert any(" status " in command for command in commands)
    for command in commands:
        ran = subprocess.run(command, shell=True, cwd=tmp_path, env=environment(), capture_output=True, check=False)
        assert ran.returncode == 0, ran.stderr
    source = re.search(r'source = "(.*)"', (tmp_path / "rowcast-demo/rowcast.toml").read_text())
    assert source is not None
    taken = run_demo(tmp_path, *options, *databases, "--source", source.group(1))
    assert taken.returncode == 2
    assert "name another one with --source" in taken.stderr
