"""Name the folders of the servers."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
REPOSITORY = TESTS.parent
CACHE = REPOSITORY / ".cache" / "servers"
