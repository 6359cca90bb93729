"""Capture programs that nobody here wrote by `rowcast instrument`, and compare their replicas.

Each program has an environment of its own in .cache/programs, made by `make programs` and `make acceptance-apps`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from servers import Broker
from servers.paths import CACHE
from support.command_line import environment, succeed, write_configuration
from support.project import TESTS

PROGRAMS = TESTS / "acceptance" / "programs"
VENVS = CACHE.parent / "programs"


@dataclass(frozen=True)
class Program:
    """Describe a program. ``drivers``: its driver for each kind of primary.

    ``migrate`` and ``command`` are arguments of the program's Python. ``variables``: environment variables for a
    database URL and a folder.
    """

    name: str
    drivers: Mapping[str, str]
    options: tuple[str, ...] = ("--strict", "raise")
    migrate: tuple[str, ...] = ()
    variables: Callable[[str, Path], dict[str, str]] = field(default=lambda url, folder: {})
    seconds: int = 120

    @property
    def bin(self) -> Path:
        """Return the folder with the program's Python. Optuna is a package of the tests themselves."""
        return Path(sys.executable).parent if self.name == "optuna" else VENVS / self.name / "bin"


def _dagster(url: str, folder: Path) -> dict[str, str]:
    storage = f'storage:\n  postgres:\n    postgres_url: "{url}"\ntelemetry:\n  enabled: false\n'
    (folder / "dagster.yaml").write_text(storage)
    return {"DAGSTER_HOME": str(folder)}


def _prefect(url: str, folder: Path) -> dict[str, str]:
    return {
        "PREFECT_API_DATABASE_CONNECTION_URL": url,
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "DO_NOT_TRACK": "1",
    }


def _prefect_by(primary: str, driver: str, *options: str) -> Program:
    upgrade = ("-m", "prefect", "server", "database", "upgrade", "-y")
    return Program("prefect", {primary: driver}, options, upgrade, _prefect, seconds=600)


def _airflow(url: str, folder: Path) -> dict[str, str]:
    return {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROGRAMS / "airflow" / "dags"),
    }


QUICK = [
    Program("apscheduler", {"sqlite": "sqlite"}),
    Program("jupyterhub", {"sqlite": "sqlite"}),
    Program("optuna", {"sqlite": "sqlite"}),
]
SLOW = [
    Program("jupyterhub", {"postgresql": "postgresql+psycopg2", "mariadb": "mysql+pymysql"}),
    Program("mlflow", {"sqlite": "sqlite", "postgresql": "postgresql+psycopg2"}, migrate=("migrate.py",)),
    Program(
        "dagster", {"postgresql": "postgresql+psycopg2"}, options=("--by", "triggers"), variables=_dagster, seconds=300
    ),
    _prefect_by("postgresql", "postgresql+asyncpg"),
    # Some of Prefect's changes are in no transaction on SQLite.
    _prefect_by("sqlite", "sqlite+aiosqlite", "--by", "triggers"),
    Program(
        "airflow",
        {"postgresql": "postgresql+psycopg2"},
        options=(),
        migrate=("-m", "airflow", "db", "migrate"),
        variables=_airflow,
        seconds=600,
    ),
]


def each_primary(programs: list[Program]) -> list[object]:
    return [pytest.param(one, primary, id=f"{one.name}-{primary}") for one in programs for primary in one.drivers]


@pytest.mark.parametrize(("program", "primary"), each_primary(QUICK))
def test_a_small_program_is_mirrored(
    tmp_path: Path, kafka: Broker, new_database: NewDatabase, source_name: str, program: Program, primary: str
) -> None:
    mirror(tmp_path, kafka, new_database, source_name, program, primary, ("sqlite",))


@pytest.mark.only_in_campaigns
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("program", "primary"), each_primary(SLOW))
def test_a_large_program_is_mirrored(
    tmp_path: Path, kafka: Broker, new_database: NewDatabase, source_name: str, program: Program, primary: str
) -> None:
    mirror(tmp_path, kafka, new_database, source_name, program, primary, ("sqlite", "postgresql", "mariadb"))


def mirror(
    folder: Path,
    kafka: Broker,
    new_database: NewDatabase,
    source: str,
    program: Program,
    primary: str,
    kinds: tuple[str, ...],
) -> None:
    if not (program.bin / "python").exists():
        pytest.fail(f"{program.name} is not installed: make acceptance-apps")
    url = new_database(primary)
    replicas = {kind: new_database(kind) for kind in kinds}
    write_configuration(folder, source, kafka.bootstrap_servers, url, replicas)
    own = sa.make_url(url).set(drivername=program.drivers[primary]).render_as_string(hide_password=False)
    if program.migrate:
        run(program, own, folder, *program.migrate)
    succeed(folder, "init")
    run(program, own, folder, "-m", "rowcast.shared.cli", "instrument", *program.options, "--", "WORKLOAD")
    succeed(folder, "relay", "--once")
    expected = count_rows(url)
    assert sum(expected.values()) >= 4, "the workload has changed too little"
    for name, to in replicas.items():
        succeed(folder, "worker", name, "--once")
        succeed(folder, "verify", name)
        counted = count_rows(to)
        assert {table: counted.get(table, 0) for table, count in expected.items() if count} == {
            table: count for table, count in expected.items() if count
        }


def run(program: Program, url: str, folder: Path, *arguments: str) -> None:
    """Run the program's Python in the folder. WORKLOAD stands for the workload of the program."""
    python, scripts = str(program.bin / "python"), PROGRAMS / program.name
    command = [python]
    for argument in arguments:
        if argument == "WORKLOAD":
            command += [python, str(scripts / "workload.py"), url]
        else:
            command += [str(scripts / argument), url] if argument.endswith(".py") else [argument]
    own = {**program.variables(url, folder), "HOME": str(folder), "PATH": f"{program.bin}:{os.environ['PATH']}"}
    variables = environment(**own)
    # The program's own deprecation warnings are no errors here, and its clients need certificates.
    for name in ("PYTHONWARNINGS", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        del variables[name]
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=program.seconds, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


def count_rows(url: str) -> dict[str, int]:
    """Return the number of rows of each table, read without rowcast."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        names = [name for name in sa.inspect(connection).get_table_names() if not name.startswith("rowcast_")]
        count = sa.func.count()
        return {
            name: connection.scalar(sa.select(count).select_from(sa.table(name))) or 0
            for name in names
            if name != "sqlite_sequence"
        }
