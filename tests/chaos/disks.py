"""Give a server a disk that can be full. Only root can mount one, on Linux."""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from servers.guard import Guard
from servers.run import run

_SPARE = 65_536


class Disk:
    """Mount a file system in memory on the folder. ``megabytes``: its size."""

    def __init__(self, folder: Path, megabytes: int, guard: Guard) -> None:
        self._folder = folder
        self._megabytes = megabytes
        folder.mkdir(parents=True)
        guard.watch_mount(folder)
        _mount(folder, f"size={megabytes}m")

    def fill(self) -> None:
        """Let nothing more fit, as if other files had taken the rest."""
        state = os.statvfs(self._folder)
        # The server writes meanwhile, and a file system cannot become smaller than its contents.
        used = (state.f_blocks - state.f_bfree) * state.f_frsize + _SPARE
        run(["mount", "-o", f"remount,size={used}", str(self._folder)])

    def free(self) -> None:
        run(["mount", "-o", f"remount,size={self._megabytes}m", str(self._folder)])

    def remove(self) -> None:
        run(["umount", "--lazy", str(self._folder)])


@cache
def can_mount() -> bool:
    """Return whether this process may mount file systems."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory(prefix="rowcast-mount-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return False
        run(["umount", folder])
    return True


def _mount(folder: Path, options: str) -> None:
    run(["mount", "-t", "tmpfs", "-o", f"{options},mode=755", "tmpfs", str(folder)])
