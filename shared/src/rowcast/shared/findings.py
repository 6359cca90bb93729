"""The findings of checks: ``Capture.check`` returns them and ``rowcast check`` prints them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Grade a finding."""

    ok = "ok"
    warning = "warning"
    """It works, but the user should know."""
    missing = "missing"
    """A table, column, trigger or file is missing or outdated."""
    configuration = "configuration"
    """The configuration or the models are wrong."""
    unreachable = "unreachable"
    """A server does not answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Describe one result of a check.

    ``area`` names the checked part: ``primary``, ``Kafka``, ``replica 'reporting'``, ``configuration``. ``hint``
    says what to do next, or is empty. ``table`` names the table of the finding, or is empty.
    """

    area: str
    verdict: Verdict
    message: str
    hint: str = ""
    table: str = ""
