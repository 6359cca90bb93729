"""MariaDB and MySQL: one RENAME TABLE of all tables."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.consumer.rebuild.dialects.base import SwapDialect
from rowcast.consumer.rebuild.swapped_table import SwappedTable
from rowcast.consumer.replica.dialects import WORKER_PREFIX, quoted_name
from rowcast.shared.database.driver_errors import mysql_number

_log = logging.getLogger("rowcast.rebuild")

_LOCK_S = 1
_NO_RIGHT = 1227
# The suffix that a rebuild gives to the name of the worker's index.
_SUFFIX = re.compile(rf"^((?:UNIQUE )?KEY `{WORKER_PREFIX}[a-z]+_[0-9a-f]{{16}})_[0-9a-f]{{6}}(?=`)")
_TRIGGERS = sa.text(
    "SELECT trigger_name, event_object_table FROM information_schema.triggers "
    "WHERE event_object_schema = database() AND event_object_table IN :names ORDER BY 1"
).bindparams(sa.bindparam("names", expanding=True))
_FOREIGN_KEYS = sa.text(
    "SELECT DISTINCT constraint_name, table_name, referenced_table_name FROM information_schema.key_column_usage "
    "WHERE referenced_table_schema = database() AND referenced_table_name IS NOT NULL ORDER BY 1"
)
_FORMS = sa.text(
    "SELECT t.table_name, t.table_type, COUNT(p.partition_name) FROM information_schema.tables t "
    "LEFT JOIN information_schema.partitions p ON p.table_schema = t.table_schema AND p.table_name = t.table_name "
    "WHERE t.table_schema = database() AND t.table_name IN :names GROUP BY t.table_name, t.table_type"
).bindparams(sa.bindparam("names", expanding=True))
# The transactions with a snapshot that may be older. Without the right PROCESS, the server shows only the user's
# transactions.
_OLD_SNAPSHOTS = sa.text(
    "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx "
    "WHERE trx_started <= :since AND trx_mysql_thread_id <> CONNECTION_ID() AND trx_mysql_thread_id <> 0 ORDER BY 1"
)


class MySQLSwap(SwapDialect):
    """Swap the tables of a database. Views and rights belong to names, so they follow by themselves."""

    def __init__(self) -> None:
        self._complete_at: object = None

    def obstacles(
        self, connection: Connection, tables: Sequence[SwappedTable], rest: Sequence[SwappedTable]
    ) -> list[str]:
        """Return triggers, columns, foreign keys of the user's, and tables in a special form."""
        live = {table.live: table for table in tables if table.before is not None}
        if not live:
            return []
        with connection.begin():
            return [
                *self._table_obstacles(connection, live),
                *self._key_obstacles(connection, tables, {table.live for table in rest}),
            ]

    @staticmethod
    def _table_obstacles(connection: Connection, live: dict[str, SwappedTable]) -> Iterator[str]:
        again = "and create it again after the rebuild."
        for trigger, table in connection.execute(_TRIGGERS, {"names": list(live)}):
            yield f"trigger {trigger} belongs to table {table}. Drop it, {again}"
        for table, kind, partitions in connection.execute(_FORMS, {"names": list(live)}):
            if kind != "BASE TABLE" or partitions:
                yield f"table {table} is partitioned or versioned. Undo this, or rebuild into another database."
        inspector = sa.inspect(connection)
        for name, swapped in live.items():
            assert swapped.before is not None
            columns = {column["name"] for column in inspector.get_columns(name)}
            if own := sorted(columns - {column.name for column in swapped.before.columns}):
                yield (
                    f"table {name} has columns that the source does not have: {', '.join(own)}. "
                    "Move them to a table of your own."
                )

    @staticmethod
    def _key_obstacles(connection: Connection, tables: Sequence[SwappedTable], rest: set[str]) -> Iterator[str]:
        known = {name for table in tables for name in (table.live, table.fresh, table.old)}
        live = {table.live for table in tables if table.before is not None}
        again = "Drop it, and create it again after the rebuild."
        for key, table, parent in connection.execute(_FOREIGN_KEYS):
            is_worker = key.startswith(WORKER_PREFIX)
            is_strange = table not in known and not (is_worker and table in rest)
            if (parent in live and is_strange) or (table in live and not is_worker):
                yield f"foreign key {key} of table {table} refers to {parent}. {again}"

    def complete(self, connection: Connection, tables: Sequence[SwappedTable], *, is_part: bool) -> None:
        """Create the user's indexes."""
        for table in tables:
            if table.before is None or table.after is None:
                continue
            with connection.begin():
                fresh = set(_index_definitions(connection, table.fresh, of_foreign_keys=is_part))
                for definition in _index_definitions(connection, table.live, of_foreign_keys=is_part):
                    if definition not in fresh:
                        statement = f"ALTER TABLE {table.quoted(connection, table.fresh)} ADD {definition}"
                        connection.exec_driver_sql(statement.replace("%", "%%"))

    def wait_for_snapshots(self, connection: Connection) -> list[str]:
        """Return the sessions whose transaction began before the first call."""
        with connection.begin():
            if self._complete_at is None:
                self._complete_at = connection.exec_driver_sql("SELECT NOW()").scalar()
            try:
                found = connection.scalars(_OLD_SNAPSHOTS, {"since": self._complete_at}).all()
            except exc.DBAPIError as error:
                if mysql_number(error) != _NO_RIGHT:
                    raise
                _log.warning(
                    "the user lacks the right PROCESS, so the rebuild cannot wait for transactions of other users that "
                    "began before. Such a transaction may see rows of the load"
                )
                return []
        return [f"session {thread}" for thread in found]

    def swap(
        self, connection: Connection, tables: Sequence[SwappedTable], first: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Rename all tables in a single statement. Foreign keys follow the tables."""
        pairs = [*first, *((t.live, t.old) for t in tables if t.before is not None)]
        pairs += [(t.fresh, t.live) for t in tables if t.after is not None]
        connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {_LOCK_S}")
        self._drop_crossing_keys(connection, tables)
        renames = ", ".join(f"{_q(connection, name)} TO {_q(connection, to)}" for name, to in pairs)
        connection.exec_driver_sql(f"RENAME TABLE {renames}")

    @staticmethod
    def _drop_crossing_keys(connection: Connection, tables: Sequence[SwappedTable]) -> None:
        """Drop the worker's foreign keys between the live tables and tables that stay. RENAME would carry them along.

        If the RENAME fails, the worker that takes the replica over creates the foreign keys again.
        """
        live = {table.live for table in tables if table.before is not None}
        known = live | {name for table in tables for name in (table.fresh, table.old)}
        for key, table, parent in connection.execute(_FOREIGN_KEYS).all():
            crosses = (table in live and parent not in known) or (parent in live and table not in known)
            if crosses and key.startswith(WORKER_PREFIX):
                connection.exec_driver_sql(
                    f"ALTER TABLE {_q(connection, table)} DROP FOREIGN KEY {_q(connection, key)}"
                )

    def drop(self, connection: Connection, names: Sequence[tuple[str | None, str]]) -> None:
        """Drop all tables, without a look at foreign keys."""
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        for _, name in names:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {_q(connection, name)}")
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 1")
        connection.commit()


def _index_definitions(connection: Connection, name: str, *, of_foreign_keys: bool) -> list[str]:
    """Return the definitions of the user's indexes, as the server writes them.

    ``of_foreign_keys``: also return the worker's indexes for foreign keys, under the names without a suffix.
    """
    text = connection.exec_driver_sql(f"SHOW CREATE TABLE {_q(connection, name)}").one()[1]
    lines = [line.strip().rstrip(",") for line in str(text).splitlines()]
    kinds = ("KEY ", "UNIQUE KEY ", "FULLTEXT KEY ", "SPATIAL KEY ")
    found = [_SUFFIX.sub(r"\1", line) for line in lines if line.startswith(kinds)]
    left_out = f"KEY `{WORKER_PREFIX}uq_" if of_foreign_keys else f"KEY `{WORKER_PREFIX}"
    return [line for line in found if left_out not in line]


def _q(connection: Connection, name: str) -> str:
    return quoted_name(connection, None, name)
