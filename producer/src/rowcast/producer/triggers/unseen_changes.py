"""Find changes on PostgreSQL that call no statement trigger of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

_CHILDREN = """
SELECT c.relispartition, min(format('%I.%I', n.nspname, c.relname)), count(*)
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE i.inhparent = {table}::regclass GROUP BY 1 ORDER BY 1
"""
_SUBSCRIPTIONS = """
SELECT s.subname FROM pg_subscription_rel AS r JOIN pg_subscription AS s ON s.oid = r.srsubid
WHERE r.srrelid = {table}::regclass ORDER BY 1
"""
_REPLICA_ROLES = """
SELECT CASE setrole WHEN 0 THEN 'all roles' ELSE 'the role ' || setrole::regrole::text END
FROM pg_db_role_setting
WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
AND 'session_replication_role=replica' = ANY (setconfig) ORDER BY 1
"""


def unseen_changes(execute: Callable[[str], Any], table: str) -> Iterator[str]:
    """Yield kinds of changes of a table that its triggers do not see.

    ``execute`` executes SQL text. ``table``: a string literal of the quoted name with its schema.
    """
    for is_partition, child, number in execute(_CHILDREN.format(table=table)).all():
        relation = "partition" if is_partition else "table that inherits from it"
        yield f"statements that name a {relation}, such as {child}" + (f" ({number} in all)" if number > 1 else "")
    for subscription in execute(_SUBSCRIPTIONS.format(table=table)).scalars():
        yield f"rows that the subscription {subscription} applies, because logical replication calls no such triggers"
    for role in execute(_REPLICA_ROLES).scalars():
        yield f"changes by {role}, for which session_replication_role is set to replica"
