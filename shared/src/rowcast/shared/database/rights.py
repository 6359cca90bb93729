"""Try the rights of a database user by statements that change no row."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.shared.database.driver_errors import is_missing_right
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.findings import Finding, Verdict

_log = logging.getLogger("rowcast.check")

RIGHTS_HINT = "grant them: docs/how-to/database-rights.md"
WRITES = ("INSERT", "UPDATE", "DELETE")
"""The rights to change rows, as SQL names them."""


@dataclass(frozen=True, slots=True)
class Right:
    """A right and its object. ``statement`` needs the right."""

    name: str
    table: str
    statement: sa.Executable


def table_rights(table: str, schema: str | None, columns: Sequence[str], names: Iterable[str]) -> list[Right]:
    """Return rights to a table. The statements find no row. ``names``: of SELECT, INSERT, UPDATE and DELETE."""
    target = sa.table(table, *(sa.column(name) for name in columns), schema=schema)
    first = target.c[columns[0]]
    statements: dict[str, sa.Executable] = {
        "SELECT": sa.select(*target.c).where(sa.false()),
        "INSERT": sa.insert(target).from_select([first.name], sa.select(first).where(sa.false())),
        "UPDATE": sa.update(target).values({first.name: first}).where(sa.false()),
        "DELETE": sa.delete(target).where(sa.false()),
    }
    shown = table if schema is None else f"{schema}.{table}"
    return [Right(name, shown, statements[name]) for name in names]


def is_refused(connection: Connection, statement: sa.Executable) -> bool:
    """Return whether the user may not run the statement. The statement is rolled back, except DDL on some engines.

    The connection has no open transaction before and after. Another error is no answer about the right, and counts as
    allowed.
    """
    try:
        connection.execute(statement)
    except exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        if is_missing_right(error):
            return True
        _log.debug("a right could not be tried: %s", first_line(error))
    finally:
        connection.rollback()
    return False


def refused_rights(connection: Connection, rights: Iterable[Right]) -> list[Right]:
    """Return the missing rights of the connection's user."""
    return [right for right in rights if is_refused(connection, right.statement)]


def rights_finding(area: str, tried: Sequence[Right], refused: Sequence[Right], user: str, command: str) -> Finding:
    """Return the finding about a user's rights. ``command`` needs all rights.

    A user without any right to write is meant to read only, so the finding is a warning.
    """
    if not refused:
        return Finding(area, Verdict.ok, f"the user {user} has the rights that {command} needs")
    by_right: dict[str, list[str]] = {}
    for right in refused:
        by_right.setdefault(right.name, []).append(right.table)
    listed = ", ".join(f"{name} ({', '.join(tables)})" if any(tables) else name for name, tables in by_right.items())
    writes = [right for right in tried if right.name != "SELECT"]
    if writes and set(writes) <= set(refused) and "SELECT" not in by_right:
        return Finding(
            area,
            Verdict.warning,
            f"the user {user} may only read, so that the rights of {command} are not tried",
            f"nothing, if {command} has a user of its own. To try the rights of that user, run rowcast check with it",
        )
    return Finding(
        area,
        Verdict.missing,
        f"the user {user} lacks rights that {command} needs: {listed}",
        RIGHTS_HINT,
    )
