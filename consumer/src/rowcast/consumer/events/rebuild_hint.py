"""The command that rebuilds a replica, for errors of code without the replica's name."""

from __future__ import annotations

REBUILD_COMMAND = "rowcast rebuild REPLICA"

REBUILD = f"Rebuild the replica: {REBUILD_COMMAND}"
REBUILD_WITH_SNAPSHOT = f"{REBUILD} --snapshot"
"""For topics that lack rows which have not changed since."""


def with_command(text: str, command: str) -> str:
    """Return the text of an error with the command for the replica at hand."""
    return text.replace(REBUILD_COMMAND, command)
