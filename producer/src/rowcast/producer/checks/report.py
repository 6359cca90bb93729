"""Print the findings of both sides for ``rowcast check``, and compute the exit code."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from rich.console import Console
from rich.text import Text

from rowcast.producer.checks.planned_shapes import Planned
from rowcast.shared.cli import logs
from rowcast.shared.cli.app import option_variables
from rowcast.shared.cli.contributions import CHECKS, PLANNED_CHANGES, load_contributions
from rowcast.shared.cli.output import print_json
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, UnreachableError
from rowcast.shared.findings import Finding, Verdict

# The areas along the way of a row.
_ORDER = ("primary", "kafka", "replicas")

_STYLES = {
    Verdict.ok: "green",
    Verdict.warning: "yellow",
    Verdict.missing: "red",
    Verdict.configuration: "red",
    Verdict.unreachable: "red",
}

_VERDICT_WIDTH = 14
_WIDEST_AREA = 24

# The first match decides. A wrong configuration often explains an unreachable server.
_EXIT_CODES = ((Verdict.configuration, 2), (Verdict.unreachable, 3), (Verdict.missing, 1))


def report(settings: Settings, *, as_json: bool, planned: Planned | None = None) -> int:
    """Print the findings to standard output, and return the exit code.

    ``planned``: also print the replicas' changes for the planned tables of the primary.
    """
    console = Console(highlight=False)
    lines = _Lines(console, settings)
    seen = []
    for found in chain(_findings(settings), () if planned is None else _planned(settings, planned)):
        finding = replace(found, message=logs.mask(found.message), hint=logs.mask(found.hint))
        seen.append(finding)
        if not as_json:
            lines.add(finding)
    counts = Counter(finding.verdict for finding in seen)
    exit_code = next((code for verdict, code in _EXIT_CODES if counts[verdict]), 0)
    if as_json:
        document = {"ok": exit_code == 0, "exit_code": exit_code, "findings": seen}
        print_json(document)
        return exit_code
    lines.print_hint()
    rest = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if verdict is not Verdict.ok)
    console.print(Text(rest or "no problems found", style="bold"))
    return exit_code


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from _configuration(settings)
    checks = dict(load_contributions(CHECKS))
    for name in sorted(checks, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER)):
        yield from checks[name](settings)


def _planned(settings: Settings, planned: Planned) -> Iterator[Finding]:
    """Yield the changes to the replicas by a migration to the models."""
    try:
        shapes, findings = planned(settings)
    except ConfigurationError as error:
        yield Finding("models", Verdict.configuration, str(error))
        return
    except UnreachableError as error:
        yield Finding("models", Verdict.unreachable, str(error))
        return
    yield from findings
    for _, planned_changes in load_contributions(PLANNED_CHANGES):
        yield from planned_changes(settings, shapes)


def _configuration(settings: Settings) -> Iterator[Finding]:
    replicas = ", ".join(settings.replicas) or "none"
    yield Finding(
        "configuration", Verdict.ok, f"valid, with the source {settings.source!r} and the replicas: {replicas}"
    )
    if unread := sorted(_unread_variables()):
        yield Finding(
            "configuration",
            Verdict.warning,
            f"no setting has the environment variable {', '.join(unread)}",
            "see docs/reference/configuration.md for the names, which have two underscores between levels",
        )


def _unread_variables() -> Iterator[str]:
    """Yield the ROWCAST_ variables without a meaning.

    The finding is a warning and not an error, because other programs may use the names.
    """
    keys = "|".join(name.upper() for name in Settings.model_fields)
    key, options = re.compile(rf"ROWCAST_({keys})(__.+)?", re.IGNORECASE), option_variables()
    own = (name for name in os.environ if name.upper().startswith("ROWCAST_"))
    return (name for name in own if not key.fullmatch(name) and name not in options)


class _Lines:
    """Print findings at once, in columns. A hint stands once, behind the last finding with the hint."""

    def __init__(self, console: Console, settings: Settings) -> None:
        self._console = console
        areas = ["configuration", *(f"replica {name!r}" for name in settings.replicas)]
        self._area_width = min(_WIDEST_AREA, max(map(len, areas)) + 1)
        self._pending: Finding | None = None
        self._printed: set[str] = set()

    def add(self, finding: Finding) -> None:
        """Print a finding. Print the hint of the earlier findings first, if the hints differ."""
        if self._pending is not None and self._pending.hint != finding.hint:
            self.print_hint()
        self._console.print(
            Text.assemble(
                (f"{finding.verdict:<{_VERDICT_WIDTH}}", _STYLES[finding.verdict]),
                (f"{finding.area + ':':<{self._area_width}} ", "bold"),
                finding.message,
            ),
            soft_wrap=True,
        )
        self._pending = finding

    def print_hint(self) -> None:
        """Print the hint of the last findings, unless printed before."""
        finding, self._pending = self._pending, None
        if finding is None or not finding.hint or finding.hint in self._printed:
            return
        self._printed.add(finding.hint)
        style = "dim" if finding.verdict is Verdict.warning else ""
        self._console.print(Text(f"{'':{_VERDICT_WIDTH}}→ {finding.hint}", style=style), soft_wrap=True)
