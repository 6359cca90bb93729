"""PostgreSQL: one transaction renames the tables, and lets views, triggers and publications follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.rebuild.dialects.base import SwapDialect
from rowcast.consumer.rebuild.dialects.postgresql_dependents import Dependents, obstacles
from rowcast.consumer.rebuild.swapped_table import SwappedTable
from rowcast.consumer.replica.dialects import WORKER_PREFIX, TableNaming
from rowcast.consumer.replica.dialects.naming import FRESH_PREFIX, OLD, constraint_base, fresh_naming
from rowcast.shared.errors import RetriableError

_FRESH = TableNaming(FRESH_PREFIX)

# A reader that waits behind the swap must not wait for the second after which the server looks for a deadlock, because
# the server could end the reader then.
_LOCK_MS = 500

_INDEXES = sa.text(
    """
    SELECT c.relname, pg_get_indexdef(c.oid) AS definition,
        format('CREATE %sINDEX %I ON %s ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, c.relname,
            (SELECT quote_ident(n.nspname) || '.' || quote_ident(t.relname)
             FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace WHERE t.oid = i.indrelid)) AS beginning,
        EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid AND k.contype IN ('p', 'u', 'x')) AS of_constraint
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = to_regclass(:quoted) ORDER BY c.relname
    """
)
_GRANTS = sa.text(
    """
    SELECT format('GRANT %s ON %s TO %s%s', a.privilege_type, CAST(:fresh AS text),
        CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = to_regclass(:live) AND a.grantee <> c.relowner
    UNION ALL
    SELECT format('GRANT %s (%I) ON %s TO %s%s', a.privilege_type, t.attname, CAST(:fresh AS text),
        CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid AND NOT t.attisdropped, aclexplode(t.attacl) a
    WHERE c.oid = to_regclass(:live) AND EXISTS (
        SELECT FROM pg_attribute f WHERE f.attrelid = to_regclass(:fresh) AND f.attname = t.attname)
    """
)
_REVOKES = sa.text(
    """
    SELECT DISTINCT format('REVOKE ALL ON %s FROM %s', CAST(:fresh AS text),
        CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
    FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = to_regclass(:fresh) AND a.grantee <> c.relowner
    """
)
_SETTINGS = sa.text(
    """
    SELECT format('ALTER TABLE %s OWNER TO %I', CAST(:fresh AS text), pg_get_userbyid(c.relowner)) FROM pg_class c
    WHERE c.oid = to_regclass(:live)
    UNION ALL
    SELECT format('ALTER TABLE %s SET (%s)', CAST(:fresh AS text), array_to_string(c.reloptions, ', ')) FROM pg_class c
    WHERE c.oid = to_regclass(:live) AND c.reloptions IS NOT NULL
    UNION ALL
    SELECT format('ALTER TABLE %s REPLICA IDENTITY %s', CAST(:fresh AS text),
        CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE 'DEFAULT' END) FROM pg_class c
    WHERE c.oid = to_regclass(:live)
    UNION ALL
    SELECT format('COMMENT ON TABLE %s IS %L', CAST(:fresh AS text), obj_description(to_regclass(:live), 'pg_class'))
    WHERE obj_description(to_regclass(:live), 'pg_class') IS NOT NULL
    UNION ALL
    SELECT format('COMMENT ON COLUMN %s.%I IS %L', CAST(:fresh AS text), t.attname,
        col_description(t.attrelid, t.attnum))
    FROM pg_attribute t WHERE t.attrelid = to_regclass(:live) AND col_description(t.attrelid, t.attnum) IS NOT NULL
    AND EXISTS (SELECT FROM pg_attribute f WHERE f.attrelid = to_regclass(:fresh) AND f.attname = t.attname)
    """
)
# The database snapshots of sessions that began before this transaction. Other databases do not see the tables.
_OLD_SNAPSHOTS = sa.text(
    """
    SELECT pid, coalesce(application_name, '') AS name, usename FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
    AND age(backend_xmin) > age(CAST(CAST(:xid AS text) AS xid)) ORDER BY pid
    """
)

# The worker's foreign keys between the live tables and tables that stay.
_CROSSING = sa.text(
    r"""
    WITH live AS (SELECT CAST(to_regclass(name) AS oid) AS oid FROM unnest(CAST(:live AS text[])) name),
        known AS (SELECT CAST(to_regclass(name) AS oid) AS oid FROM unnest(CAST(:known AS text[])) name)
    SELECT quote_ident(conname) AS conname, CAST(CAST(conrelid AS regclass) AS text) AS child,
        CAST(CAST(confrelid AS regclass) AS text) AS parent
    FROM pg_constraint WHERE contype = 'f' AND conname LIKE 'rowcast\_%' AND (
        (conrelid IN (SELECT oid FROM live) AND confrelid NOT IN (SELECT oid FROM known))
        OR (confrelid IN (SELECT oid FROM live) AND conrelid NOT IN (SELECT oid FROM known)))
    ORDER BY 1
    """
)


class PostgreSQLSwap(SwapDialect):
    """Swap the tables of a schema, or of several."""

    def __init__(self) -> None:
        self._complete_at: str | None = None

    def obstacles(
        self, connection: Connection, tables: Sequence[SwappedTable], rest: Sequence[SwappedTable]
    ) -> list[str]:
        """Return the objects that would be lost, from PostgreSQL's own record of dependencies."""
        with connection.begin():
            return obstacles(connection, tables, rest)

    def complete(self, connection: Connection, tables: Sequence[SwappedTable], *, is_part: bool) -> None:
        """Create the user's indexes, and copy owner, rights, comments, storage parameters and replica identity."""
        for table in tables:
            if table.before is None or table.after is None:
                continue
            with connection.begin():
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_MS}")
                names = {
                    "live": table.quoted(connection, table.live).replace("%%", "%"),
                    "fresh": table.quoted(connection, table.fresh).replace("%%", "%"),
                }
                for statements in (_REVOKES, _SETTINGS, _GRANTS):
                    for statement in connection.scalars(statements, names).all():
                        connection.exec_driver_sql(statement.replace("%", "%%"))
                self._create_indexes(connection, names)
                if is_part:
                    self._create_key_indexes(connection, names)

    @staticmethod
    def _create_indexes(connection: Connection, names: dict[str, str]) -> None:
        fresh = {index.relname for index in connection.execute(_INDEXES, {"quoted": names["fresh"]})}
        for index in _user_indexes(connection, names["live"]):
            name = _FRESH.table(index.relname)
            if not index.of_constraint and name not in fresh:
                _create_index(connection, index, name, names["fresh"])

    @staticmethod
    def _create_key_indexes(connection: Connection, names: dict[str, str]) -> None:
        """Create the worker's indexes for foreign keys to tables that stay. The worker creates the keys later."""
        fresh = {constraint_base(i.relname) for i in connection.execute(_INDEXES, {"quoted": names["fresh"]})}
        for index in connection.execute(_INDEXES, {"quoted": names["live"]}).all():
            base = str(constraint_base(index.relname))
            if base.startswith(f"{WORKER_PREFIX}ix_") and base not in fresh:
                _create_index(connection, index, f"{base}{fresh_naming().suffix}", names["fresh"])

    def wait_for_snapshots(self, connection: Connection) -> list[str]:
        """Return the sessions whose database snapshot is older than the first call."""
        with connection.begin():
            if self._complete_at is None:
                self._complete_at = str(connection.exec_driver_sql("SELECT pg_current_xact_id()::xid").scalar())
            found = connection.execute(_OLD_SNAPSHOTS, {"xid": self._complete_at}).all()
        return [f"session {row.pid} of {row.usename} ({row.name or 'no name'})" for row in found]

    def swap(
        self, connection: Connection, tables: Sequence[SwappedTable], first: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Lock all tables, rename tables and indexes, and point views, triggers and publications to the new tables."""
        live = [table for table in tables if table.before is not None]
        # The fresh tables first, because an autovacuum of one must not keep readers of a locked live table waiting.
        locked = [table.quoted(connection, table.fresh) for table in tables if table.after is not None]
        locked += [table.quoted(connection, table.live) for table in live]
        crossing = connection.execute(_CROSSING, self._names(connection, tables)).all()
        # A table may be there twice, because the server quotes a name only if needed.
        locked += [name.replace("%", "%%") for row in crossing for name in (row.child, row.parent)]
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_MS}")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_LOCK_MS}")
        connection.exec_driver_sql(f"LOCK TABLE {', '.join(locked)} IN ACCESS EXCLUSIVE MODE")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        for row in crossing:
            connection.exec_driver_sql(f"ALTER TABLE {row.child} DROP CONSTRAINT {row.conname}".replace("%", "%%"))
        dependents = Dependents(connection, live)
        indexes = {table.full_name: self._index_names(connection, table) for table in live}
        for table in live:
            _rename(connection, "TABLE", table, table.live, table.old)
            for name, _ in indexes[table.full_name]:
                _rename(connection, "INDEX", table, name, OLD.table(name))
        for table in tables:
            if table.after is not None:
                _rename(connection, "TABLE", table, table.fresh, table.live)
                for name, fresh in indexes.get(table.full_name, ()):
                    if fresh is not None:
                        _rename(connection, "INDEX", table, fresh, name)
        dependents.follow(connection)

    @staticmethod
    def _names(connection: Connection, tables: Sequence[SwappedTable]) -> dict[str, list[str]]:
        """Return the names of the live tables, and of the live and the fresh tables."""
        live = [table.quoted(connection, table.live) for table in tables if table.before is not None]
        fresh = [table.quoted(connection, table.fresh) for table in tables if table.after is not None]
        return {
            "live": [name.replace("%%", "%") for name in live],
            "known": [name.replace("%%", "%") for name in (*live, *fresh)],
        }

    @staticmethod
    def _index_names(connection: Connection, table: SwappedTable) -> list[tuple[str, str | None]]:
        """Return the names of the live table's indexes that are not the worker's, with the names of the fresh ones."""
        live = table.quoted(connection, table.live).replace("%%", "%")
        fresh = table.quoted(connection, table.fresh).replace("%%", "%")
        found = connection.execute(_INDEXES, {"quoted": fresh}).all()
        key = next((index.relname for index in found if index.of_constraint), None)
        existing = {index.relname for index in found}
        names: list[tuple[str, str | None]] = []
        for index in _user_indexes(connection, live):
            name = key if index.of_constraint else _FRESH.table(index.relname)
            if table.after is not None and name not in existing:
                raise RetriableError(f"index {index.relname} was created during the rebuild")
            names.append((index.relname, name if table.after is not None else None))
        return names

    def drop(self, connection: Connection, names: Sequence[tuple[str | None, str]]) -> None:
        """Drop all tables in a single statement, because foreign keys may connect the tables."""
        quote = connection.dialect.identifier_preparer.quote_identifier
        quoted = [".".join(quote(part) for part in name if part) for name in names]
        if quoted:
            with connection.begin():
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {', '.join(quoted)}")


def _user_indexes(connection: Connection, quoted: str) -> list[Any]:
    """Return the indexes of a table that the worker did not name, also the primary key's."""
    found = connection.execute(_INDEXES, {"quoted": quoted}).all()
    return [index for index in found if not index.relname.startswith(WORKER_PREFIX)]


def _create_index(connection: Connection, index: Any, name: str, table: str) -> None:
    """Create an index of ``_INDEXES`` under another name for another table."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    rest = index.definition.removeprefix(index.beginning)
    unique = "UNIQUE " if index.beginning.startswith("CREATE UNIQUE") else ""
    connection.exec_driver_sql(f"CREATE {unique}INDEX {quote(name)} ON {table} {rest}".replace("%", "%%"))


def _rename(connection: Connection, kind: str, table: SwappedTable, name: str, to: str) -> None:
    quote = connection.dialect.identifier_preparer.quote_identifier
    connection.exec_driver_sql(f"ALTER {kind} {table.quoted(connection, name)} RENAME TO {quote(to)}")
