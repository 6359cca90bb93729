"""Instrument whole processes: console scripts, modules, forks, and the processes that a program starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from rowcast.producer.instrumentation.options import Options
from support.command_line import rowcast, rowcast_process

MODELS = """
import sqlalchemy as sa

metadata = sa.MetaData()
items = sa.Table("items", metadata, sa.Column("name", sa.String(20), primary_key=True))


def write(url, name):
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(items.insert().values(name=name))
    engine.dispose()
"""

# As gunicorn does, the program forks workers after it has connected.
PROGRAM = """
import os, subprocess, sys

from shop import models

URL = sys.argv[1] if len(sys.argv) > 1 else "sqlite:///x.db"


def main():
    models.write(URL, "parent")
    child = os.fork()
    if child == 0:
        models.write(URL, "forked worker")
        os._exit(0)
    os.waitpid(child, 0)
    subprocess.run([sys.executable, "-m", "shop.job"], check=True)
    print("done")
    sys.exit(7)


if __name__ == "__main__":
    main()
"""

JOB = """
from shop import models

if __name__ == "__main__":
    models.write("sqlite:///x.db", "job")
"""


def make_program(folder: Path, url: str) -> Path:
    """Write a package, a console script that runs it, and a configuration. Return the script."""
    package = folder / "shop"
    package.mkdir()
    for name, text in {"__init__": "", "models": MODELS, "program": PROGRAM, "job": JOB}.items():
        (package / f"{name}.py").write_text(text)
    script = folder / "shop-program"
    # A console script as pip writes it.
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom shop.program import main\nsys.exit(main())\n")
    script.chmod(0o755)
    (folder / "rowcast.toml").write_text(f'source = "shop"\n[primary]\nurl = "{url}"\n')
    return script


def test_a_console_script_its_forks_and_its_child_processes_are_captured(tmp_path: Path) -> None:
    script = make_program(tmp_path, "sqlite:///x.db")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE items (name VARCHAR(20) PRIMARY KEY)")
    options = ("--metadata", "shop.models:metadata", "--strict", "raise", "--create-outbox")
    # Another sitecustomize, as of a profiler, is imported too: by the command, the program and the job.
    (tmp_path / "sitecustomize.py").write_text("print('other sitecustomize', flush=True)\n")
    result = rowcast_process("instrument", *options, "--", str(script), cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 7, result.stderr
    assert result.stderr == ""
    assert result.stdout.splitlines() == [*["other sitecustomize"] * 3, "done"]
    with engine.connect() as connection:
        lines = "".join(connection.exec_driver_sql("SELECT changes FROM rowcast_outbox ORDER BY id").scalars())
    assert [line.split('"name":"')[2].rstrip('"}') for line in lines.splitlines()] == [
        "parent",
        "forked worker",
        "job",
    ]


def test_a_program_that_connects_elsewhere_ends_with_an_error_line(tmp_path: Path) -> None:
    make_program(tmp_path, "sqlite:///other.db")
    with sa.create_engine(f"sqlite:///{tmp_path}/x.db", poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE items (name VARCHAR(20) PRIMARY KEY)")
    done = run_instrumented("import shop.models; shop.models.write('sqlite:///x.db', 'x')", tmp_path)
    assert done.returncode == 0
    assert "this program was not captured" in done.stderr
    assert "sqlite:///x.db" in done.stderr
    assert "other.db" in done.stderr


def run_instrumented(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run code as a child process of an instrumented program."""
    environment: dict[str, str] = {}
    Options(folder=str(cwd)).put_into(environment)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=cwd)


def test_a_python_without_rowcast_does_not_run_uncaptured(tmp_path: Path) -> None:
    # Many programs ask first whether SQLAlchemy is there.
    asks = "import sys, importlib.util; importlib.util.find_spec('sqlalchemy')"
    connects = "sys.modules['rowcast.producer'] = None; import sqlalchemy as s; s.create_engine('sqlite://').connect()"
    done = run_instrumented(f"{asks}; {connects}", tmp_path)
    assert done.returncode == 1
    assert f"rowcast cannot be imported by {sys.executable}" in done.stderr


def test_programs_without_sqlalchemy_import_nothing_more(tmp_path: Path) -> None:
    code = "import sys; print({'sqlalchemy', 'pydantic', 'rowcast.producer'} & sys.modules.keys())"
    assert run_instrumented(code, tmp_path).stdout == "set()\n"


@pytest.mark.parametrize("dashes", [(), ("--",)])
def test_the_options_after_the_program_are_those_of_the_program(tmp_path: Path, dashes: tuple[str, ...]) -> None:
    (tmp_path / "rowcast.toml").write_text('source = "shop"\n')
    code = ("-c", "import sys; print(sys.argv)", "--strict", "-h", "--", "--config")
    result = rowcast_process("instrument", "--url-match", "*", *dashes, sys.executable, *code, cwd=tmp_path)
    assert result.stdout == "['-c', '--strict', '-h', '--', '--config']\n"


def test_wrong_use_is_told_before_the_program_starts(tmp_path: Path) -> None:
    (tmp_path / "rowcast.toml").write_text('source = "shop"\n')
    for arguments, message in [
        (("--", "python"), "does not know which database is the source"),
        (("--url-match", "*", "--metadata", "shop", "--", "python"), "--metadata shop: write it like shop.models:Base"),
        (("--url-match", "*", "--", "no-such-program"), "no program 'no-such-program' on PATH"),
    ]:
        result = rowcast("instrument", *arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert message in " ".join(result.stderr.split())
