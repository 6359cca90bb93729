"""SQLite: one transaction renames the tables, and creates the user's indexes and triggers again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy.engine import Connection

from rowcast.consumer.rebuild.dialects.base import SwapDialect
from rowcast.consumer.rebuild.swapped_table import SwappedTable
from rowcast.consumer.replica.dialects import WORKER_PREFIX, quoted_name


class SQLiteSwap(SwapDialect):
    """Swap the tables of a file.

    Names of indexes and triggers belong to the whole file. Therefore the fresh tables can get the names only when the
    live tables have lost the names. Views find tables by name.
    """

    def obstacles(
        self, connection: Connection, tables: Sequence[SwappedTable], rest: Sequence[SwappedTable]
    ) -> list[str]:
        """Return columns of the user's, and foreign keys of other tables."""
        live = {table.live: table for table in tables if table.before is not None}
        found = []
        with connection.begin():
            for name, table in live.items():
                assert table.before is not None
                columns = {row[1] for row in connection.exec_driver_sql(f"PRAGMA table_xinfo({_q(connection, name)})")}
                if own := sorted(columns - {column.name for column in table.before.columns}):
                    found.append(
                        f"table {name} has columns that the source does not have: {', '.join(own)}. "
                        "Move them to a table of your own."
                    )
            names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
            for other in names:
                keys = connection.exec_driver_sql(f"PRAGMA foreign_key_list({_q(connection, other)})").all()
                # Foreign keys of the worker's other tables have been refused before, with another next step.
                if other not in {t for table in (*tables, *rest) for t in (table.live, table.fresh, table.old)}:
                    found += [
                        f"a foreign key of table {other} refers to {parent}. Drop table {other}, or create it without "
                        "the foreign key."
                        for parent in sorted({row[2] for row in keys} & live.keys())
                    ]
        return found

    def complete(self, connection: Connection, tables: Sequence[SwappedTable], *, is_part: bool) -> None:
        """Do nothing, because the swap creates the indexes."""

    def swap(
        self, connection: Connection, tables: Sequence[SwappedTable], first: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Rename all tables, and create the user's indexes and triggers of the live tables for the fresh tables."""
        # Foreign keys follow the names of their tables. Views and triggers do not.
        connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
        carried = [
            statement for table in tables if table.before and table.after for statement in _own(connection, table)
        ]
        for table in tables:
            if table.before is not None:
                _rename(connection, table.live, table.old)
        for table in tables:
            if table.after is not None:
                _rename(connection, table.fresh, table.live)
        for kind, name, _ in carried:
            connection.exec_driver_sql(f"DROP {kind} {_q(connection, name)}")
        for _, _, sql in carried:
            connection.exec_driver_sql(sql)
        connection.exec_driver_sql("PRAGMA legacy_alter_table = OFF")

    def drop(self, connection: Connection, names: Sequence[tuple[str | None, str]]) -> None:
        """Drop tables without a look at foreign keys."""
        with connection.begin():
            for _, name in names:
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {_q(connection, name)}")


def _own(connection: Connection, table: SwappedTable) -> Iterator[tuple[str, str, str]]:
    """Return kind, name and statement of the user's indexes and triggers of a live table."""
    rows = connection.exec_driver_sql(
        "SELECT upper(type), name, sql FROM sqlite_master "
        "WHERE tbl_name = ? AND type IN ('index', 'trigger') AND sql IS NOT NULL",
        (table.live,),
    ).all()
    for kind, name, sql in rows:
        if not name.startswith(WORKER_PREFIX):
            yield kind, name, sql


def _rename(connection: Connection, name: str, to: str) -> None:
    connection.exec_driver_sql(f"ALTER TABLE {_q(connection, name)} RENAME TO {_q(connection, to)}")


def _q(connection: Connection, name: str) -> str:
    return quoted_name(connection, None, name)
