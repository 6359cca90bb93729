"""Write durations for people."""

from __future__ import annotations

_UNITS = ((86_400_000, "d", 3_600_000, "h"), (3_600_000, "h", 60_000, "min"), (60_000, "min", 1_000, "s"))


def duration_text(ms: float) -> str:
    """Return a duration in milliseconds in its two greatest units, as in ``40 ms``, ``2.5 s`` or ``3 h 20 min``."""
    if ms < 1_000:
        return f"{ms:.0f} ms"
    for unit, name, part, part_name in _UNITS:
        if ms >= unit:
            whole, rest = divmod(int(ms), unit)
            return f"{whole:,} {name}" + (f" {rest // part} {part_name}" if rest >= part else "")
    return f"{ms / 1_000:.1f} s"
