"""Check the contents of the built wheel, and the commands that need only its required dependencies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from servers.paths import REPOSITORY

ROOTS = ("producer", "consumer", "shared")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, REPOSITORY, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def uv() -> str:
    """Return the path of uv: from the variable that make sets, from the path, or from make's cache."""
    found = os.environ.get("UV") or shutil.which("uv") or str(REPOSITORY / ".cache/uv-tool/bin/uv")
    assert Path(found).exists(), "uv is missing; `make test` installs it"
    return found


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an environment with the wheel, no extra, and the dependency versions of uv.lock. Return its Python."""
    folder = tmp_path_factory.mktemp("bare")
    python = folder / "venv/bin/python"
    locked = folder / "locked.txt"
    export = ["export", "--quiet", "--frozen", "--no-default-groups", "--group", "sqlalchemy21", "--no-emit-project"]
    run(uv(), *export, "--output-file", locked, cwd=REPOSITORY)
    run(uv(), "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    run(uv(), "pip", "install", "--quiet", "--python", python, "--constraint", locked, wheel, cwd=folder)
    return python


def test_the_wheel_holds_rowcast_and_nothing_else(names: list[str]) -> None:
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"rowcast"}
    assert {name.split("/")[1] for name in names if name.startswith("rowcast/")} == set(ROOTS)


@pytest.mark.parametrize("root", ROOTS)
def test_each_root_is_typed(names: list[str], root: str) -> None:
    assert f"rowcast/{root}/py.typed" in names


def test_rowcast_is_a_namespace(names: list[str]) -> None:
    assert "rowcast/__init__.py" not in names


def test_every_module_of_the_sources_is_in_the_wheel(names: list[str]) -> None:
    for root in ROOTS:
        sources = REPOSITORY / root / "src"
        modules = {str(path.relative_to(sources)) for path in sources.rglob("*.py")}
        assert modules <= set(names)


APPLICATION = """
import importlib.util
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker
from rowcast.producer import Capture

assert importlib.util.find_spec("confluent_kafka") is None
metadata = sa.MetaData()
item = sa.Table("item", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text))
capture = Capture(metadata, source="shop")
engine = sa.create_engine("sqlite:///primary.db")
sessions = sessionmaker(engine)
capture.install(sessions)
metadata.create_all(engine)
with sessions.begin() as session:
    session.execute(sa.insert(item).values(id=1, name="a"))
with engine.connect() as connection:
    print(connection.exec_driver_sql("SELECT count(*) FROM rowcast_outbox").scalar())
"""


def test_an_application_embeds_the_capture_with_no_kafka_client(bare_python: Path, tmp_path: Path) -> None:
    assert run(bare_python, "-c", APPLICATION, cwd=tmp_path).strip() == "1"


@pytest.mark.parametrize(
    ("command", "extra"),
    [(["relay", "--once"], "relay"), (["worker", "copy", "--once"], "worker"), (["demo"], "relay")],
)
def test_a_missing_extra_is_named_with_the_command_that_adds_it(
    bare_python: Path, tmp_path: Path, command: list[str], extra: str
) -> None:
    run(bare_python, "-c", APPLICATION, cwd=tmp_path)
    (tmp_path / "rowcast.toml").write_text(
        'source = "shop"\n'
        '[kafka]\n"bootstrap.servers" = "127.0.0.1:9"\n'
        '[primary]\nurl = "sqlite:///primary.db"\n'
        '[replicas.copy]\nurl = "sqlite:///copy.db"\n'
    )
    done = subprocess.run(
        [bare_python.with_name("rowcast"), *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )

    assert f"pip install '.[{extra}]'" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout
    assert done.returncode == 2
