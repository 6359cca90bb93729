"""Load the contributions of both sides to common commands: ``rowcast check``, ``status``, ``verify`` and ``rebuild``.

The sides never import each other. They contribute functions through entry points: a check takes the settings and
yields findings. A check of planned changes takes the shapes of the application's models too. A status function takes
the settings and the bound on a commit's age, and returns a ``SideStatus``. A snapshot function publishes all rows of
tables again, and returns the first lsn from which on they are. A repair function sends rows again for ``rowcast verify
--repair``. A promotion function creates the outbox tables in a replica that becomes a primary. A dead letter function
opens a queue for ``rowcast dlq``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, Engine

from rowcast.shared.cli.exit_codes import Failure
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import ConfigurationError, UnreachableError
from rowcast.shared.findings import Finding, Verdict

CHECKS = "rowcast.checks"
PLANNED_CHANGES = "rowcast.planned_changes"
STATUS = "rowcast.status"
SNAPSHOTS = "rowcast.snapshots"
REPAIR = "rowcast.repair"
TRACE = "rowcast.trace"
PROMOTION = "rowcast.promotion"
DEAD_LETTERS = "rowcast.dead_letters"

Check = Callable[[Settings], Iterator[Finding]]
Status = Callable[[Settings, float], "SideStatus"]


def open_for_check(url: URL, area: str, *, no_file: Finding | None = None) -> Generator[Finding, None, Engine | None]:
    """Connect to a database, yield a finding, and return the engine, or None if the database does not answer.

    Call: ``engine = yield from open_for_check(…)``. ``no_file``: the finding about a missing SQLite file.
    """
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        # Connecting would create an empty file and so hide a wrong path.
        yield no_file or Finding(area, Verdict.missing, f"there is no file {url.database}", "check the url")
        return None
    try:
        engine = open_engine(url, area, pooled=False)
        reach(engine, area)
    except ConfigurationError as error:
        yield Finding(area, Verdict.configuration, str(error))
        return None
    except UnreachableError as error:
        yield Finding(area, Verdict.unreachable, str(error))
        return None
    version = ".".join(str(part) for part in engine.dialect.server_version_info or ())
    yield Finding(area, Verdict.ok, f"{engine.dialect.name} {version} at {engine.url} (driver {engine.dialect.driver})")
    return engine


@dataclass(frozen=True, slots=True)
class SideStatus:
    """Hold the status of one side for ``rowcast status``: ``data`` for ``--json``, ``blocks`` for a terminal.

    ``problems``: faults, each with the next step. ``failure``: a server did not answer. The rest of the status is shown
    nevertheless.
    """

    data: dict[str, Any]
    blocks: tuple[StatusBlock, ...] = ()
    problems: tuple[str, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class StatusBlock:
    """Hold one block of a status, for a terminal. ``lines``: names and texts.

    A text is never cut, because the user may copy a command out of the text.
    """

    title: str
    lines: tuple[tuple[str, str], ...]


def load_contributions(group: str) -> list[tuple[str, Any]]:
    """Load the entry points of ``group``, sorted by name."""
    return [(e.name, e.load()) for e in sorted(entry_points(group=group), key=lambda e: e.name)]
