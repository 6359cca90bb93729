"""Let a query on MariaDB and MySQL read the rows that an UPDATE or DELETE with an equal condition reads.

With REPEATABLE READ an UPDATE reads and locks the newest rows of all its tables. Unchanged rows are locked in share
mode. The subqueries of ``SELECT … FOR UPDATE`` read an older state without locks.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import visitors
from sqlalchemy.sql.selectable import ForUpdateArg, SelectStatementGrouping

_READS_COMMITTED = frozenset(("READ COMMITTED", "READ UNCOMMITTED"))


def read_as_update(connection: Connection, query: sa.Select[Any], table: Any) -> sa.Select[Any]:
    """Return the query with the locks that an UPDATE of ``table`` would take."""
    if connection.get_isolation_level() in _READS_COMMITTED:
        # Each statement reads the rows committed at its beginning.
        return query
    query = query._generate()
    query._where_criteria = tuple(_share_locked(condition) for condition in query._where_criteria)
    others = [other for other in query.get_final_froms() if other is not table]
    if not others:
        return query
    if not getattr(connection.dialect, "supports_for_update_of", False) or not all(
        isinstance(other, sa.Table) for other in others
    ):
        # MariaDB locks the rows of all tables alike.
        return query.with_for_update()
    preparer = connection.dialect.identifier_preparer
    names = ", ".join(preparer.format_table(other, use_schema=False) for other in others)
    return query.with_for_update(of=table).suffix_with(sa.text(f"FOR SHARE OF {names}"))


def _share_locked(condition: Any) -> Any:
    """Return the condition with locking subqueries."""

    def lock(select: Any) -> None:
        if select._for_update_arg is None:
            select._for_update_arg = ForUpdateArg(read=True)

    def group(union: Any) -> None:
        # The lock of an ungrouped SELECT would not belong to that SELECT alone.
        union.selects = [SelectStatementGrouping(s) if isinstance(s, sa.Select) else s for s in union.selects]

    return visitors.cloned_traverse(condition, {}, {"select": lock, "compound_select": group})
