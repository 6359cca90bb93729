"""Let an UPDATE of many rows write its own outbox rows, from the values in its RETURNING.

With the drain, every key would travel to the application and every row would be found again by its key, which takes
half as long again. PostgreSQL only. Only for tables without rules or triggers, because there only another captured
statement can change a row image before commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.producer.capture.drain.row_sizes import max_row_bytes
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.dialects.percent_signs import for_database, for_driver
from rowcast.producer.database.dialects.search_path import in_place_sql
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT
from rowcast.producer.outbox.block_writer import STORED_TYPES, block_of
from rowcast.producer.outbox.line_writer import row_line
from rowcast.producer.outbox.schema import KEYS_PER_ROW
from rowcast.producer.tables.captured import CapturedTable

BULK_UPDATE_MIN_ROWS = 500
"""The statement writes its own outbox rows from this number of rows on.

The keys of fewer rows are noted, so that one outbox row holds the whole transaction and goes with its COMMIT.
"""

# A table with rules is no plain table, because a rule may refuse DML in a CTE. Views and partitions are no plain
# tables, because their triggers belong to another table.
_IS_PLAIN_TABLE = sa.text(
    "SELECT relkind = 'r' AND NOT relhasrules FROM pg_catalog.pg_class WHERE oid = to_regclass(:name)"
).columns(sa.column("plain", sa.Boolean))

_WRAPPING_SQL = """WITH rowcast_changed AS ({update}\nRETURNING {keys}, {values}, {bytes} AS rowcast_bytes), \
rowcast_size AS (SELECT count(*) AS total, count(*) >= {many} AND NOT EXISTS (\
SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = {name}::regclass AND NOT tgisinternal)\
{in_place} AND {settings_hold} AND max(rowcast_bytes) <= {max_bytes} AS many \
FROM rowcast_changed), \
rowcast_written AS (INSERT INTO {outbox} (tx, ts_ms, changes) \
SELECT CAST(txid_current() AS varchar), {now}, changes FROM (SELECT {changes} AS changes FROM (\
SELECT {names}, (row_number() OVER () - 1) / {a_row} AS part FROM rowcast_changed \
WHERE (SELECT many FROM rowcast_size)) AS rows GROUP BY part ORDER BY part) AS parts WHERE changes <> '') \
SELECT rowcast_size.total, {their_keys} FROM rowcast_size LEFT JOIN rowcast_changed ON NOT rowcast_size.many"""


class BulkUpdate:
    """Wrap UPDATEs of an engine in a statement that also writes their outbox rows.

    ``may_write_now``: return whether the outbox may take a table's changes before the transaction ends.
    """

    def __init__(
        self, outbox: sa.Table, dialect: Dialect, may_write_now: Callable[[Connection, CapturedTable], bool]
    ) -> None:
        self._outbox = outbox
        self._dialect = dialect
        self._may_write_now = may_write_now
        # The tables of a tenant are given up at some time.
        self._fragments: WeakKeyDictionary[CapturedTable, dict[str, Any] | None] = WeakKeyDictionary()

    def supports(self, connection: Connection, table: CapturedTable) -> bool:
        """Return whether an UPDATE of the table may be wrapped now."""
        if not self._may_write_now(connection, table):
            return False
        if table not in self._fragments:
            self._fragments[table] = self._make_fragments(connection, table)
        return self._fragments[table] is not None

    def wrap_update(self, update: str, table: CapturedTable) -> str:
        """Return the text of an UPDATE inside a text that also writes its outbox rows. ``supports`` must be true.

        Each returned row has the number of changed rows and a key. If the outbox has all changes, a single row without
        a key is returned. Otherwise a row is returned for each key, or a single row without a key if nothing was
        changed.
        """
        fragments = self._fragments[table]
        assert fragments is not None, "supports() must be true"
        return _WRAPPING_SQL.format(update=update, **fragments)

    def _make_fragments(self, connection: Connection, table: CapturedTable) -> dict[str, Any] | None:
        if not capture_dialect(self._dialect).has_dml_in_ctes:
            return None
        compiled = row_line(table, "u").compile(dialect=self._dialect)
        assert isinstance(compiled, SQLCompiler)
        if compiled.binds:
            # The line has salts as parameters. Literal salts would appear in the server's logs.
            return None
        preparer = self._dialect.identifier_preparer
        name = preparer.format_table(table.table)
        named = {"name": for_database(name, self._dialect)}
        if not connection.execute(_IS_PLAIN_TABLE, named, execution_options=INTERNAL_STATEMENT).scalar():
            return None
        stored = connection.execute(STORED_TYPES, named, execution_options=INTERNAL_STATEMENT)
        block = block_of(table, "u", {str(column): str(type_) for column, type_ in stored}, self._dialect)
        values = {"line": str(compiled)} if block is None else block.values
        keys = [f"{column} AS k{i}" for i, column in enumerate(table.stored_keys.returning(qualified=True))]
        return {
            "keys": ", ".join(keys),
            "their_keys": ", ".join(f"rowcast_changed.k{i}" for i in range(len(keys))),
            "values": ", ".join(f"{sql} AS {value}" for value, sql in values.items()),
            "names": ", ".join(values),
            "changes": "string_agg(line, '')" if block is None else block.changes,
            "in_place": "" if table.table.schema else " AND " + self._in_place(table.table),
            "settings_hold": capture_dialect(self._dialect).fixed_settings_hold(table.types.values()),
            "bytes": self._bytes(table),
            "max_bytes": max_row_bytes(),
            "many": BULK_UPDATE_MIN_ROWS,
            "name": "'" + name.replace("'", "''") + "'",
            "outbox": preparer.format_table(self._outbox),
            "now": capture_dialect(self._dialect).now_ms().compile(dialect=self._dialect),
            "a_row": KEYS_PER_ROW,
        }

    def _in_place(self, table: sa.Table) -> str:
        return for_driver(in_place_sql(table, self._dialect), self._dialect)

    def _bytes(self, table: CapturedTable) -> str:
        """Return the SQL expression for the bytes of a row's long values. Long rows are left to the drain."""
        sizes = [
            sa.func.coalesce(size, sa.literal_column("0"))
            for column in table.columns
            if (size := capture_dialect(self._dialect).measured_bytes(column, table.types[str(column.name)]))
            is not None
        ]
        return " + ".join(str(size.compile(dialect=self._dialect)) for size in sizes) or "0"
