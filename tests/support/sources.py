"""The text of rowcast's sources, to look for messages in it."""

from __future__ import annotations

import re
from functools import cache

from support.project import ROOT

SOURCES = [ROOT / side / "src" for side in ("producer", "consumer", "shared")]


@cache
def sources() -> str:
    """Return the sources, with adjacent string literals joined to a single text."""
    files = (path.read_text("utf-8") for source in SOURCES for path in source.rglob("*.py"))
    return "\n".join(re.sub(r"([\"'])\n\s*[fr]?\1", "", text) for text in files)
