"""``rowcast check``: both sides' findings, line by line as they come, and the exit code they add up to."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import orjson
from rich.console import Console
from rich.text import Text

from rowcast.shared import logs
from rowcast.shared.cli import option_variables
from rowcast.shared.config import Settings
from rowcast.shared.parts import CHECKS, Finding, Verdict, contributions

# In the order of a row's way.
_ORDER = ("primary", "kafka", "replicas")

_STYLES = {
    Verdict.ok: "green",
    Verdict.warning: "yellow",
    Verdict.missing: "red",
    Verdict.configuration: "red",
    Verdict.unreachable: "red",
}

# The worst comes first: what is wrong in the configuration explains what cannot be reached.
_EXIT_CODES = ((Verdict.configuration, 2), (Verdict.unreachable, 3), (Verdict.missing, 1))


def report(settings: Settings, *, as_json: bool) -> int:
    """Prints the findings to standard output and gives the exit code."""
    console = Console(highlight=False)
    seen = []
    for found in _findings(settings):
        finding = replace(found, message=logs.mask(found.message), mend=logs.mask(found.mend))
        seen.append(finding)
        if not as_json:
            _print(console, finding)
    counts = Counter(finding.verdict for finding in seen)
    exit_code = next((code for verdict, code in _EXIT_CODES if counts[verdict]), 0)
    if as_json:
        document = {"ok": exit_code == 0, "exit_code": exit_code, "findings": seen}
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())  # noqa: T201  # the result
        return exit_code
    rest = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if verdict is not Verdict.ok)
    console.print(Text(rest or "all is well", style="bold"))
    return exit_code


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from _configuration(settings)
    checks = dict(contributions(CHECKS))
    for name in sorted(checks, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER)):
        yield from checks[name](settings)


def _configuration(settings: Settings) -> Iterator[Finding]:
    replicas = ", ".join(settings.replicas) or "none"
    yield Finding("configuration", Verdict.ok, f"valid; source {settings.source!r}, replicas: {replicas}")
    if unread := sorted(_unread_variables()):
        yield Finding(
            "configuration",
            Verdict.warning,
            f"nothing reads the environment variable {', '.join(unread)}",
            "see docs/reference/configuration.md for the names; levels are parted by two underscores",
        )


def _unread_variables() -> Iterator[str]:
    """A mistaken name in the file is an error; the environment is full of others' names, so here it is a hint."""
    keys = "|".join(name.upper() for name in Settings.model_fields)
    key, options = re.compile(rf"ROWCAST_({keys})(__.+)?", re.IGNORECASE), option_variables()
    own = (name for name in os.environ if name.upper().startswith("ROWCAST_"))
    return (name for name in own if not key.fullmatch(name) and name not in options)


def _print(console: Console, finding: Finding) -> None:
    text = Text.assemble(
        (f"{finding.verdict:<13}", _STYLES[finding.verdict]), (f"{finding.area}: ", "bold"), finding.message
    )
    if finding.mend:
        text.append(f"\n{'':13}→ {finding.mend}", style="dim" if finding.verdict is Verdict.warning else "")
    console.print(text, soft_wrap=True)
