"""Define execution options for rowcast's statements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INTERNAL_OPTION = "rowcast_own"
INTERNAL_STATEMENT = {INTERNAL_OPTION: True}
"""Execution options for rowcast's own statements, which the listeners skip."""

UNTRANSLATED: Mapping[str, Any] = {"schema_translate_map": None}
"""Execution options for statements on tables whose schemas are already translated."""
