"""Find, run and show the commands of both sides."""

from rowcast.shared.cli.app import main

__all__ = ["main"]
