"""Find Prometheus' promtool, or unpack it from Debian's package. Nothing of the package is installed."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from .paths import CACHE
from .run import run
from .server import ServerError

_PROGRAM = CACHE / "promtool"


@cache
def promtool() -> str:
    """Return the path of promtool. Raises ServerError if there is neither promtool nor apt."""
    found = shutil.which("promtool")
    if found is not None:
        return found
    if not _PROGRAM.exists():
        _unpack()
    return str(_PROGRAM)


def _unpack() -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise ServerError("promtool comes from Debian's package prometheus, which this machine has no apt for")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="promtool-") as temporary:
        folder = Path(temporary)
        # As root, apt would otherwise download as a user who cannot write here.
        run(["apt-get", "-o", "APT::Sandbox::User=root", "download", "prometheus"], cwd=folder)
        (package,) = folder.glob("prometheus_*.deb")
        run(["dpkg-deb", "--extract", str(package), str(folder / "unpacked")])
        (folder / "unpacked/usr/bin/promtool").rename(_PROGRAM)
