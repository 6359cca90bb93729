"""SQLite: write a table again with other definitions, because ALTER TABLE changes neither constraints nor defaults.

The statements belong into one transaction, in a connection without foreign keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sqlalchemy import inspect
from sqlalchemy.engine import Connection

from rowcast.consumer.events.rebuild_hint import REBUILD
from rowcast.consumer.replica.dialects.quoting import for_driver, quoted_name
from rowcast.consumer.replica.dialects.replica_table import Loosening
from rowcast.shared.errors import ConfigurationError

_NEW_PREFIX = "rowcast_loose_"
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`|\[[^\]]*\]")
_OWN = re.compile(r"\b(CHECK|COLLATE|GENERATED|AS|UNIQUE|AUTOINCREMENT|WITHOUT|STRICT|ON)\b", re.IGNORECASE)


def rewritten(connection: Connection, table: str, new: str, columns: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Return the statements that write a table again under the name ``new``, and rename the new table.

    ``columns``: the names of the columns to copy. ``parts``: the definitions of columns and constraints, ready for the
    driver. The indexes and triggers of the table are created again.
    """
    old, quoted = quoted_name(connection, None, table), quoted_name(connection, None, new)
    copied = _quoted_list(connection, columns)
    carried = connection.exec_driver_sql(
        "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL",
        (table,),
    ).scalars()
    return [
        # References to the table keep its name.
        "PRAGMA legacy_alter_table = ON",
        f"DROP TABLE IF EXISTS {quoted}",
        f"CREATE TABLE {quoted} ({', '.join(parts)})",
        f"INSERT INTO {quoted} ({copied}) SELECT {copied} FROM {old}",
        f"DROP TABLE {old}",
        f"ALTER TABLE {quoted} RENAME TO {old}",
        *carried,
        "PRAGMA legacy_alter_table = OFF",
    ]


def column_part(connection: Connection, name: str, type_: str, *, nullable: bool, default: str = "") -> str:
    """Return the definition of a column, ready for the driver."""
    parts = (
        quoted_name(connection, None, name),
        for_driver(connection, type_),
        "" if nullable else "NOT NULL",
        f"DEFAULT {for_driver(connection, default)}" if default else "",
    )
    return " ".join(part for part in parts if part)


def foreign_key_part(
    connection: Connection, name: str, columns: Sequence[str], parent: str, referred: Sequence[str]
) -> str:
    """Return the definition of a foreign key, ready for the driver."""
    return (
        f"CONSTRAINT {quoted_name(connection, None, name)} FOREIGN KEY ({_quoted_list(connection, columns)}) "
        f"REFERENCES {quoted_name(connection, None, parent)} ({_quoted_list(connection, referred)})"
    )


def loosened_table(connection: Connection, loosening: Loosening, more: Sequence[str] = ()) -> list[str]:
    """Return the statements to write a table of the worker again without some constraints.

    ``more``: the definitions of further constraints. Raise ConfigurationError for a table with definitions that no
    worker writes.
    """
    name, inspector = loosening.table[1], inspect(connection)
    if words := sorted(set(_own_words(connection, name))):
        raise ConfigurationError(
            f"table {name}: SQLite changes NOT NULL, defaults and foreign keys only by writing the table again, and "
            f"its definition has {', '.join(words)}, which would be lost. {REBUILD}"
        )
    parts = [
        column_part(
            connection, column.name, column.type, nullable=column.nullable or column.name in loosening.nullable,
            default=_in_parentheses(loosening.defaults.get(column.name, column.default)),
        )
        for column in loosening.columns.values()
    ]  # fmt: skip
    key = inspector.get_pk_constraint(name)["constrained_columns"]
    parts.append(f"PRIMARY KEY ({_quoted_list(connection, key)})")
    parts += [
        foreign_key_part(
            connection, key["name"] or f"rowcast_{number}", key["constrained_columns"], key["referred_table"],
            key["referred_columns"],
        )
        for number, key in enumerate(inspector.get_foreign_keys(name))
        if key["name"] not in loosening.foreign_keys
    ]  # fmt: skip
    return rewritten(connection, name, f"{_NEW_PREFIX}{name}", list(loosening.columns), [*parts, *more])


def _in_parentheses(default: str) -> str:
    return f"({default})" if default else ""


def _quoted_list(connection: Connection, names: Sequence[str]) -> str:
    return ", ".join(quoted_name(connection, None, name) for name in names)


def _own_words(connection: Connection, table: str) -> Iterator[str]:
    """Yield the words of a table's definition for what the pragmas of the table do not show, and no worker writes."""
    query = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?"
    sql = connection.exec_driver_sql(query, (table,)).scalar_one()
    for match in _OWN.finditer(_QUOTED.sub(" ", sql)):
        yield match[0].upper()
