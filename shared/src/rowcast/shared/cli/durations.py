"""Write durations and sizes for people."""

from __future__ import annotations

_SIZES = ("kB", "MB", "GB", "TB")
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


def size_text(size: float) -> str:
    """Return a size in bytes in its greatest unit, as in ``40 bytes``, ``2.5 kB`` or ``3.0 GB``."""
    if size < 1_000:
        return f"{size:.0f} bytes"
    # 999.95 kB would be shown as 1,000.0 kB.
    steps = next((n for n in range(1, len(_SIZES)) if size / 1_000**n < 999.95), len(_SIZES))
    return f"{size / 1_000**steps:,.1f} {_SIZES[steps - 1]}"
