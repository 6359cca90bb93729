"""Run ``rowcast demo`` as a user does: as a separate process in an empty directory."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from servers import Broker
from support.command_line import environment, rowcast, rowcast_process, started
from support.terminal import drawn, on_terminal


def run_demo(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return rowcast_process("demo", *options, cwd=directory, timeout=300)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run the demo. Return the directory and the output.

    The directory has the files of an earlier run, and the environment has settings of the user's own project.
    """
    directory = tmp_path_factory.mktemp("demo")
    (directory / "rowcast-demo").mkdir()
    for name, text in {"rowcast.toml": "# Written by `rowcast demo`", "primary.db": "x", "worker.log": "old"}.items():
        (directory / "rowcast-demo" / name).write_text(text)
    others = {"ROWCAST_PRIMARY__URL": "postgresql://nobody@127.0.0.1:1/x", "ROWCAST_SOURCE": "other", "COLUMNS": "80"}
    ran = rowcast_process("demo", "--seconds", "3", cwd=directory, env=others, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return directory, ran


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
    assert "Every promise was kept: primary and replica are equal." in result.stdout
    assert "Traceback" not in result.stderr


def test_the_result_has_the_figures_of_every_promise(demo: Run) -> None:
    text = " ".join(demo[1].stdout.split())
    assert re.search(r"✓ worker killed by kill -9, the standby took over in \d+\.\d s ", text)
    assert "✓ rows changed by hand, verify found 3 of 3, --repair sent 3 " in text
    rebuilt = re.search(r"✓ replica deleted rebuilt 5 tables from [\d,]+ records, ([\d,]+) rows equal, [\d.]+ s ", text)
    assert rebuilt is not None
    assert int(rebuilt.group(1).replace(",", "")) > 100
    reads = re.search(r"✓ replica read ([\d,]+) times, the gift cards always had the sum 20,000.00 ", text)
    assert reads is not None
    assert int(reads.group(1).replace(",", "")) > 20
    assert re.search(r"✓ shop closed equal: [\d,]+ rows in 5 tables ", text)


def test_the_lines_fit_80_columns_and_no_line_has_a_control_character(demo: Run) -> None:
    result, _, commands = demo[1].stdout.partition("Next steps:")
    assert commands
    assert max(map(len, result.splitlines())) <= 80
    assert "\x1b" not in demo[1].stdout + demo[1].stderr


def test_both_databases_stay_and_hold_the_same_rows(demo: Run) -> None:
    place = demo[0] / "rowcast-demo"
    for table, key in (
        ("accounts", "id"),
        ("customers", "id"),
        ("products", "id"),
        ("orders", "id"),
        ("order_lines", "order_id, line"),
    ):
        ordered = f"SELECT * FROM {table} ORDER BY {key}"
        ours, theirs = rows(place / "primary.db", ordered), rows(place / "replica.db", ordered)
        assert len(ours) > 10
        assert ours == theirs


def test_every_committed_change_of_the_shop_is_one_event(demo: Run) -> None:
    counts = re.search(
        r"([\d,]+) row changes in ([\d,]+) transactions and 3 repaired rows: ([\d,]+) events", demo[1].stdout
    )
    assert counts is not None
    changes, transactions, events = (int(number.replace(",", "")) for number in counts.groups())
    assert changes + 3 == events > 100
    assert transactions > 20
    place = demo[0] / "rowcast-demo"
    assert rows(place / "replica.db", "SELECT count(*) FROM order_lines WHERE line = 99") == [(0,)]
    assert rows(place / "primary.db", "SELECT count(*) FROM rowcast_outbox") == [(0,)]
    assert rows(place / "replica.db", "SELECT count(*) FROM orders WHERE note = 'without a gift'") > [(0,)]


def test_relay_and_worker_were_processes_that_ended_in_order(demo: Run) -> None:
    for command in ("relay", "worker-3"):
        text = (demo[0] / "rowcast-demo" / f"{command}.log").read_text("utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        assert any("SIGTERM" in line["message"] for line in lines)
        assert not [line for line in lines if line["level"] in ("error", "critical")]


def test_the_three_next_commands_work_as_printed(demo: Run) -> None:
    commands = demo[1].stdout.partition("Next steps:\n")[2].splitlines()
    assert len(commands) == 3
    placed, equal, template = (run_as_printed(command, demo[0]) for command in commands)
    assert "placed" in placed.stdout
    assert equal.returncode == 0, equal.stderr
    assert "equal" in equal.stdout
    assert "[replicas.replica]" in template.stdout


def test_the_killed_workers_ended_without_a_last_word(demo: Run) -> None:
    for name in ("worker-1", "worker-2"):
        text = (demo[0] / "rowcast-demo" / f"{name}.log").read_text("utf-8")
        assert '"active":' in text
        assert "SIGTERM" not in text


def test_without_a_terminal_the_demo_prints_rows_events_and_lag_in_lines(demo: Run) -> None:
    lines = [line for line in demo[1].stderr.splitlines() if "rows_written=" in line]
    assert len(lines) > 3
    assert all("events_published=" in line and "lag=" in line for line in lines)
    assert "in memory, for demonstrations and tests only" in demo[1].stderr


def test_the_demo_replaces_its_directory(demo: Run) -> None:
    assert not (demo[0] / "rowcast-demo" / "worker.log").exists()
    (config,) = demo[0].rglob("rowcast.toml")
    assert config == demo[0] / "rowcast-demo" / "rowcast.toml"


def test_the_demo_refuses_a_directory_that_it_did_not_create(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "primary.db").write_text("not the demo's")
    refused = rowcast("demo", "--directory", "mine", cwd=tmp_path)
    assert refused.returncode == 2
    assert "the demo did not create it" in refused.stderr
    assert (tmp_path / "mine" / "primary.db").read_text() == "not the demo's"


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "demo phase="),
        (signal.SIGTERM, "phase=the shop is open"),
        (signal.SIGINT, "phase=rowcast rebuild"),
    ],
)
def test_a_signal_stops_the_demo_and_leaves_no_process_and_no_file(
    tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    command = [sys.executable, "-m", "rowcast.shared.cli", "demo", "--seconds", "0.5"]
    with started(command, tmp_path, environment()) as process:
        stderr = process.stderr
        assert stderr is not None
        for line in iter(stderr.readline, ""):
            if moment in line:
                break
        children = children_of(process.pid)
        process.send_signal(number)
        _, output = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert "stopped before the databases were compared" in output
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_sum_on_the_replica_is_a_broken_promise(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rowcast.shared.cli", "demo", "--seconds", "0.5"]
    with (tmp_path / "out").open("wb") as out, started(command, tmp_path, environment(), stdout=out) as process:
        stderr = process.stderr
        assert stderr is not None
        for line in iter(stderr.readline, ""):
            if "verify --repair" in line:
                break
        with closing(sqlite3.connect(tmp_path / "rowcast-demo" / "replica.db", timeout=10)) as replica, replica:
            replica.execute("UPDATE accounts SET balance = balance + 1")
        process.communicate(timeout=300)
    assert process.returncode == 1
    output = (tmp_path / "out").read_text()
    assert re.search(r"✗ replica read +[\d,]+ times, with [\d,]+ wrong sums", output)
    assert "A promise was not kept." in output


@pytest.mark.parametrize("no_color", [False, True])
def test_on_a_terminal_the_panel_leaves_nothing_behind(tmp_path: Path, no_color: bool) -> None:
    colour = {"NO_COLOR": "1"} if no_color else {}
    variables = {name: value for name, value in environment().items() if name not in ("NO_COLOR", "COLUMNS")}
    command = [sys.executable, "-m", "rowcast.shared.cli", "demo", "--seconds", "0.5"]
    shown = ""
    with on_terminal(command, tmp_path, {**variables, "TERM": "xterm", **colour}) as (process, output):
        for piece in output:
            shown += piece
            # The title of a panel that was drawn more than once.
            if shown.count("the shop is open") == 3:
                process.send_signal(signal.SIGINT)
    assert process.returncode == 1
    assert "╭" in shown
    lines = drawn(shown)
    assert not [line for line in lines if set(line) & set("╭│╰─")], lines
    assert "stopped before the databases were compared" in " ".join(lines)
    assert {len(line) for line in drawn(shown.partition("╰")[0]) if line.startswith("│")} == {80}
    assert (re.search(r"\x1b\[[\d;]*3\dm", shown) is not None) == (not no_color)
    # The cursor is visible again.
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert list(tmp_path.iterdir()) == []


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
    urls = (new_database(primary), new_database(replica))
    databases = ("--primary", urls[0], "--replica", urls[1])
    # The databases have tables of an earlier demo.
    for url in urls:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE rowcast_demo (made_by VARCHAR(40) PRIMARY KEY)")
            connection.exec_driver_sql("CREATE TABLE products (id INTEGER PRIMARY KEY)")
        engine.dispose()
    result = run_demo(tmp_path, *options, *databases)
    assert result.returncode == 0, result.stderr + result.stdout
    assert "Every promise was kept" in result.stdout
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
