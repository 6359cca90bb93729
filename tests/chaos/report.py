"""Show what a campaign has done and found."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

from chaos.campaign import Outcome


def text_of(outcome: Outcome) -> str:
    """Return the report as Markdown."""
    minutes = (outcome.ended - outcome.began) / 60
    consistent = sum(n for name, n in outcome.reads.items() if name.endswith(", consistent"))
    day = time.strftime("%Y-%m-%d", time.localtime(outcome.began))
    summary = (
        f"Seed {outcome.seed}, {day}, {minutes:.0f} minutes: {sum(outcome.injected.values())} faults in "
        f"{outcome.rounds} rounds, {sum(outcome.reads.values())} reads, {consistent} of them consistent, "
        f"{len(outcome.violations)} violations."
    )
    lines = [
        summary,
        "",
        *_table("fault", outcome.injected),
        *_table("not injected", outcome.missed),
        *_table("reads of replica and state", outcome.reads),
        *_table("processes that ended by themselves, by exit code", outcome.exits),
        f"Reads that met a fault: {outcome.failed_reads}.",
    ]
    if outcome.recoveries:
        lines.append(
            f"Seconds until all replicas were equal: median {statistics.median(outcome.recoveries):.1f}, "
            f"longest {max(outcome.recoveries):.1f}."
        )
    lines += ["", *(f"VIOLATION {violation}" for violation in outcome.violations)]
    return "\n".join(lines)


def _table(title: str, counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    return [f"| {title} | number |", "| --- | --- |", *(f"| {name} | {n} |" for name, n in sorted(counts.items())), ""]
