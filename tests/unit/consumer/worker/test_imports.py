"""A worker imports little at its start, because a killed worker is to be replaced soon."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Run what the console script runs, up to the first line of the command.
_LOAD = """
import sys
from importlib.metadata import entry_points
from rowcast.shared.cli import app
early = "sqlalchemy" in sys.modules
[entry] = entry_points(group=app.COMMANDS, name="worker")
app._loaded(entry)
import rowcast.consumer.running.run_worker, rowcast.shared.watchdog
print(early, *sys.modules)
"""


@pytest.fixture(scope="module")
def imported() -> list[str]:
    done = subprocess.run([sys.executable, "-c", _LOAD], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_collector_pauses_while_sqlalchemy_is_imported(imported: list[str]) -> None:
    assert imported[0] == "False"
    assert "sqlalchemy" in imported


@pytest.mark.parametrize(
    "module",
    [
        "alembic", "psycopg", "pymysql", "prometheus_client", "rich.live", "rich.progress_bar", "rich.spinner",
        "rich.table", "rowcast.producer", "rowcast.consumer.status.report", "rowcast.consumer.verification.report",
        "sqlalchemy.ext.asyncio", "sqlalchemy.orm", "unittest",
    ],
)  # fmt: skip
def test_a_worker_does_not_import_at_its_start(imported: list[str], module: str) -> None:
    assert module not in imported
