"""What each side contributes to the commands that concern both: ``rowcast check`` and ``rowcast status``.

The sides never import each other; they meet through entry points. A check is a function from the settings to
findings, a status part one from the settings to ``StatusPart``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, Engine

from rowcast.shared.config import Settings
from rowcast.shared.databases import open_engine, reach
from rowcast.shared.errors import ConfigurationError, UnreachableError
from rowcast.shared.failures import Failure

CHECKS = "rowcast.checks"
STATUS = "rowcast.status"


class Verdict(StrEnum):
    """What a check found."""

    ok = "ok"
    warning = "warning"
    """Works, but the user should know."""
    missing = "missing"
    configuration = "configuration"
    unreachable = "unreachable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``rowcast check``. ``area`` is what was looked at (``primary``, ``Kafka``, ``replica 'x'``)."""

    area: str
    verdict: Verdict
    message: str
    mend: str = ""


Check = Callable[[Settings], Iterator[Finding]]


def reached(url: URL, area: str, *, no_file: Finding | None = None) -> Generator[Finding, None, Engine | None]:
    """Connects to a database; ``engine = yield from reached(…)`` tells what was found. None: it does not answer.

    ``no_file``: what to tell of an SQLite file that is not there.
    """
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        # Connecting would make an empty file, and hide a mistaken path.
        yield no_file or Finding(area, Verdict.missing, f"there is no file {url.database}", "is its url right?")
        return None
    try:
        engine = open_engine(url, area, pooled=False, connect_args=_PATIENCE.get(url.get_backend_name(), {}))
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


# Seconds to wait for a connection: a host that drops packets would keep a check waiting for minutes.
_PATIENCE = {backend: {"connect_timeout": 10} for backend in ("postgresql", "mysql", "mariadb")}


@dataclass(frozen=True, slots=True)
class StatusPart:
    """One side's share of ``rowcast status``: ``data`` is what ``--json`` shows, ``tables`` what a terminal does.

    ``failure``: something did not answer; the rest is shown all the same.
    """

    data: dict[str, Any]
    tables: tuple[StatusTable, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class StatusTable:
    """A table for people; the texts of ``rows`` are as they are to be shown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def contributions(group: str) -> list[tuple[str, Any]]:
    """What the installed distributions put into ``group``, by name."""
    return [(e.name, e.load()) for e in sorted(entry_points(group=group), key=lambda e: e.name)]
