"""Images that an UPDATE makes itself, of many rows at once: what its RETURNING says goes straight into the outbox.

The drain would find every row again by its key, of which it would first hear from the application: half as long again.
PostgreSQL only, and only where an image cannot be another one at commit, unless a statement that is noted makes it so.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.producer.clock import now_ms
from rowcast.producer.drain import KEYS_PER_ROW
from rowcast.producer.locked_reads import OWN
from rowcast.producer.outbox_blocks import STORED_TYPES, block_of
from rowcast.producer.outbox_lines import row_line
from rowcast.producer.tables import CapturedTable

MANY = 500
"""Rows from which on the statement writes the outbox itself. The keys of fewer are noted: one outbox row then tells the
whole transaction, and goes with its COMMIT."""

# A rule may refuse DML in a CTE, a view's or a partition's triggers are another table's.
_PLAIN = sa.text(
    "SELECT relkind = 'r' AND NOT relhasrules FROM pg_catalog.pg_class WHERE oid = to_regclass(:name)"
).columns(sa.column("plain", sa.Boolean))

_WRAPPED = """WITH rowcast_changed AS ({update} RETURNING {keys}, {values}), \
rowcast_size AS (SELECT count(*) AS total, count(*) >= {many} AND NOT EXISTS (\
SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = {name}::regclass AND NOT tgisinternal) AS many \
FROM rowcast_changed), \
rowcast_written AS (INSERT INTO {outbox} (tx, ts_ms, changes) \
SELECT CAST(txid_current() AS varchar), {now}, changes FROM (SELECT {changes} AS changes FROM (\
SELECT {names}, (row_number() OVER () - 1) / {a_row} AS part FROM rowcast_changed \
WHERE (SELECT many FROM rowcast_size)) AS rows GROUP BY part ORDER BY part) AS parts WHERE changes <> '') \
SELECT rowcast_size.total, {their_keys} FROM rowcast_size LEFT JOIN rowcast_changed ON NOT rowcast_size.many"""


class ReturnedImages:
    """Of one engine's tables."""

    def __init__(self, outbox: sa.Table, dialect: Dialect) -> None:
        self._outbox = outbox
        self._dialect = dialect
        self._of: dict[CapturedTable, dict[str, Any] | None] = {}

    def can(self, connection: Connection, table: CapturedTable) -> bool:
        """Whether an UPDATE of the table may be wrapped."""
        if table not in self._of:
            self._of[table] = self._parts(connection, table)
        return self._of[table] is not None

    def wrapped(self, update: str, table: CapturedTable) -> str:
        """The statement's text with its own around it. It returns rows of the number of rows changed and a key: one row
        without a key if the outbox has all changes, else one for each key, if there is any."""
        parts = self._of[table]
        assert parts is not None, "can comes first"
        return _WRAPPED.format(update=update, **parts)

    def _parts(self, connection: Connection, table: CapturedTable) -> dict[str, Any] | None:
        if self._dialect.name != "postgresql":
            return None
        compiled = row_line(table, "u").compile(dialect=self._dialect)
        assert isinstance(compiled, SQLCompiler)
        if compiled.binds:
            # A salt would stand in the server's logs.
            return None
        preparer = self._dialect.identifier_preparer
        name = preparer.format_table(table.table)
        if not connection.execute(_PLAIN, {"name": name.replace("%%", "%")}, execution_options=OWN).scalar():
            return None
        stored = connection.execute(STORED_TYPES, {"name": name.replace("%%", "%")}, execution_options=OWN)
        block = block_of(table, "u", {str(column): str(type_) for column, type_ in stored}, self._dialect)
        values = {"line": str(compiled)} if block is None else block.values
        keys = [
            f"{preparer.format_column(column, use_table=True, use_schema=True)} AS k{i}"
            for i, column in enumerate(table.key_columns)
        ]
        return {
            "keys": ", ".join(keys),
            "their_keys": ", ".join(f"rowcast_changed.k{i}" for i in range(len(keys))),
            "values": ", ".join(f"{sql} AS {value}" for value, sql in values.items()),
            "names": ", ".join(values),
            "changes": "string_agg(line, '')" if block is None else block.changes,
            "many": MANY,
            "name": "'" + name.replace("'", "''") + "'",
            "outbox": preparer.format_table(self._outbox),
            "now": now_ms(self._dialect).compile(dialect=self._dialect),
            "a_row": KEYS_PER_ROW,
        }
