"""Runs ``rowcast`` as a user does: a process of its own, with no settings but those given."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def environment(**more: str) -> dict[str, str]:
    """The machine's environment without rowcast's own variables, wide and without colour."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")}
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "GITHUB_ACTIONS", "PY_COLORS"):
        plain.pop(name, None)
    return {**plain, "COLUMNS": "200", "NO_COLOR": "1", "PYTHONWARNINGS": "error", **more}


def rowcast(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    without: str | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """``without``: a module that this process cannot import, as if its extra were not installed."""
    hidden = f"sys.modules[{without!r}] = None; " if without else ""
    program = f"import sys; {hidden}from rowcast.shared.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
