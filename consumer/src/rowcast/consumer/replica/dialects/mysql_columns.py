"""MariaDB and MySQL: read the definitions of columns, because MODIFY forgets each attribute not named."""

from __future__ import annotations

import re

from sqlalchemy.engine import Connection

from rowcast.consumer.replica.dialects.existing_column import ExistingColumn
from rowcast.consumer.replica.dialects.quoting import for_driver

_COLUMNS = """
SELECT column_name, column_type, is_nullable, column_default, extra, character_set_name, collation_name,
       column_comment
FROM information_schema.columns WHERE table_schema = database() AND table_name = %s
"""
_ON_UPDATE = re.compile(r"on update \S+", re.IGNORECASE)
_GENERATED_DEFAULT = "DEFAULT_GENERATED"


def column_definitions(connection: Connection, table: str) -> dict[str, ExistingColumn]:
    """Return the columns of a table by name."""
    rows = connection.exec_driver_sql(_COLUMNS, (table,)).all()
    return {row[0]: _column(connection, *row[1:]) for row in rows}


def default_of(connection: Connection, default: str | bytes | None, extra: str) -> str:
    """Return the SQL of a column's default, or "" without one.

    ``default`` and ``extra`` come from information_schema.columns.
    """
    # MariaDB shows the missing default of a column that may be NULL as the word.
    if default is None or (text := _text(default)) == "NULL":
        return ""
    if getattr(connection.dialect, "is_mariadb", False):
        return text
    if _GENERATED_DEFAULT not in extra.upper():
        return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    # MySQL shows an expression with escaped quotes.
    return text if text.upper().startswith("CURRENT_TIMESTAMP") else "(" + text.replace("\\'", "'") + ")"


def _column(
    connection: Connection, type_: str | bytes, nullable: str, default: str | bytes | None, extra: str,
    charset: str | None, collation: str | None, comment: str,
) -> ExistingColumn:  # fmt: skip
    attributes = []
    if charset is not None and collation is not None:
        attributes.append(f"CHARACTER SET {charset} COLLATE {collation}")
    if comment:
        quoted = comment.replace("\\", "\\\\").replace("'", "''")
        attributes.append(for_driver(connection, f"COMMENT '{quoted}'"))
    if match := _ON_UPDATE.search(extra):
        attributes.append(match[0])
    return ExistingColumn(
        # In lower case but for labels.
        _text(type_),
        nullable == "YES",
        default_of(connection, default, extra),
        "auto_increment" in extra.lower(),
        " ".join(attributes),
        "VIRTUAL GENERATED" in extra.upper() or "STORED GENERATED" in extra.upper(),
        collation,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
