"""Name the folders of the project."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
EXAMPLES = ROOT / "examples"
REFERENCE = ROOT / "docs" / "reference"
