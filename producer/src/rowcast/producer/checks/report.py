"""Print the findings of both sides for ``rowcast check``, and compute the exit code."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from rowcast.shared.cli import logs
from rowcast.shared.cli.app import option_variables
from rowcast.shared.cli.contributions import CHECKS, load_contributions
from rowcast.shared.cli.output import print_json
from rowcast.shared.config.settings import Settings
from rowcast.shared.findings import Finding, Verdict

# The order in which a row passes the areas.
_ORDER = ("primary", "kafka", "replicas")

_STYLES = {
    Verdict.ok: "green",
    Verdict.warning: "yellow",
    Verdict.missing: "red",
    Verdict.configuration: "red",
    Verdict.unreachable: "red",
}

# The first match decides. A wrong configuration often explains an unreachable server.
_EXIT_CODES = ((Verdict.configuration, 2), (Verdict.unreachable, 3), (Verdict.missing, 1))


def report(settings: Settings, *, as_json: bool) -> int:
    """Print the findings to standard output, and return the exit code."""
    console = Console(highlight=False)
    seen = []
    for found in _findings(settings):
        finding = replace(found, message=logs.mask(found.message), hint=logs.mask(found.hint))
        seen.append(finding)
        if not as_json:
            _print(console, finding)
    counts = Counter(finding.verdict for finding in seen)
    exit_code = next((code for verdict, code in _EXIT_CODES if counts[verdict]), 0)
    if as_json:
        document = {"ok": exit_code == 0, "exit_code": exit_code, "findings": seen}
        print_json(document)
        return exit_code
    rest = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if verdict is not Verdict.ok)
    console.print(Text(rest or "no problems found", style="bold"))
    return exit_code


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from _configuration(settings)
    checks = dict(load_contributions(CHECKS))
    for name in sorted(checks, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER)):
        yield from checks[name](settings)


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
    """Yield the variables that begin with ROWCAST_ and have no meaning.

    The finding is a warning and not an error, because other programs may use such names.
    """
    keys = "|".join(name.upper() for name in Settings.model_fields)
    key, options = re.compile(rf"ROWCAST_({keys})(__.+)?", re.IGNORECASE), option_variables()
    own = (name for name in os.environ if name.upper().startswith("ROWCAST_"))
    return (name for name in own if not key.fullmatch(name) and name not in options)


def _print(console: Console, finding: Finding) -> None:
    text = Text.assemble(
        (f"{finding.verdict:<14}", _STYLES[finding.verdict]), (f"{finding.area}: ", "bold"), finding.message
    )
    if finding.hint:
        text.append(f"\n{'':14}→ {finding.hint}", style="dim" if finding.verdict is Verdict.warning else "")
    console.print(text, soft_wrap=True)
