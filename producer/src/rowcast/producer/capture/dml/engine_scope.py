"""Hold what all parts of an engine's capture share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.capture.notes.replaced_statements import ReplacedStatements
from rowcast.producer.capture.notes.row_security import RowSecurity
from rowcast.producer.capture.notes.strictness import StrictnessRule
from rowcast.producer.outbox.schema import OutboxTables
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.schema_translation import Translation

SCHEMA_TRANSLATE_MAP = "schema_translate_map"
"""SQLAlchemy's execution option that puts the tables of a statement into other schemas."""

FindCaptured = Callable[[Connection, Any, Translation | None], CapturedTable | None]
"""Return the captured table for a statement's table under its ``schema_translate_map``, or None if not captured."""


FindDeclared = Callable[[Connection, Any], sa.Table | None]
"""Return the metadata's table for a statement's table, captured or not, or None."""


@dataclass(frozen=True, slots=True)
class EngineScope:
    """Hold the metadata and outbox of an engine's capture, and functions to find the tables of statements.

    ``strictness`` decides about statements whose changed rows cannot be found out. ``row_security`` refuses statements
    whose changed rows may be hidden.
    """

    metadata: sa.MetaData
    outbox: OutboxTables
    find_captured: FindCaptured
    find_declared: FindDeclared
    strictness: StrictnessRule
    row_security: RowSecurity = field(default_factory=RowSecurity)
    replaced_statements: ReplacedStatements = field(default_factory=ReplacedStatements)
