"""Refuse temporary tables and views that hide a captured table.

The statements after it would change the rows of the temporary table, and the events would name the captured table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Connection

from rowcast.producer.capture.dml.engine_scope import SCHEMA_TRANSLATE_MAP, EngineScope
from rowcast.producer.capture.sql_text import hidden_tables
from rowcast.shared.errors import CaptureError


def refuse_hiding(connection: Connection, sql: str, options: Mapping[str, Any], scope: EngineScope) -> None:
    """Raise CaptureError if the text creates a temporary table or view with the name of a captured table."""
    for table in hidden_tables(sql, scope.metadata.tables.values(), connection.dialect):
        captured = scope.find_captured(connection, table, options.get(SCHEMA_TRANSLATE_MAP))
        if captured is not None:
            raise CaptureError(
                f"a temporary table or view with the name {table.name} would hide the captured table "
                f"{captured.full_name}, and its rows would be published as rows of the table. Give it another name: "
                f"{' '.join(sql.split())[:300]}"
            )
