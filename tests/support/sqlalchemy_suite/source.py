"""Download SQLAlchemy's source distribution, whose tests the wheels do not have, and run the tests."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import sqlalchemy as sa

from support.project import ROOT, TESTS

_PLUGIN = "support.sqlalchemy_suite.plugin"
_OPTIONS = ("-o", "addopts=", "--maxfail=100000", "-q", "--tb=short", "-p", "warnings", "-p", "logging")


def source_folder() -> Path:
    """Return the folder of the installed version's source. Download it at the first call, as uv.lock names it."""
    folder = ROOT / ".cache" / f"sqlalchemy-{sa.__version__}"
    if not folder.exists():
        sdist = _locked_sdist()
        with urllib.request.urlopen(sdist["url"]) as response:
            content: bytes = response.read()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == sdist["hash"]
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder.parent, filter="data")
    return folder


def _locked_sdist() -> dict[str, Any]:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    named = (package for package in packages if package["name"] == "sqlalchemy")
    found: dict[str, Any] = next(package["sdist"] for package in named if package["version"] == sa.__version__)
    return found


def failures(tests: Sequence[str], database: str, report: Path, *, captured: bool) -> set[str]:
    """Run tests and return the names of those that fail, as ``file::class::function`` without parameters.

    ``tests``: files, folders or options of pytest. ``database``: the URL. ``report``: a file for the report of pytest.
    """
    command = [sys.executable, "-s", "-m", "pytest", *tests, "--dburi", database, *_OPTIONS, f"--junitxml={report}"]
    command += ["-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"]
    command += ["-p", _PLUGIN] if captured else []
    done = subprocess.run(
        command,
        cwd=source_folder(),
        env={"PYTHONPATH": str(TESTS), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout[-4000:] + done.stderr[-4000:]
    assert not captured or "rowcast has captured 0 transactions" not in done.stdout, "the capture was not installed"
    cases = ElementTree.parse(report).iter("testcase")
    return {_name(case) for case in cases if case.find("failure") is not None or case.find("error") is not None}


def _name(case: ElementTree.Element) -> str:
    """Return ``file::class::function``. SQLAlchemy adds the database to the name of the class."""
    path, _, owner = case.attrib["classname"].rpartition(".")
    return f"{path.replace('.', '/')}.py::{owner.partition('_')[0]}::{case.attrib['name'].partition('[')[0]}"
