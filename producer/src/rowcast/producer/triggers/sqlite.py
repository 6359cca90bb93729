"""Capture by row triggers on SQLite.

The triggers read the row from the table, because a stored value has the type of the column, and because a trigger of
the application may have changed the row again.

**Transaction id.** SQLite has no transaction ids, but a single writer at a time. Therefore commits are in the order of
the outbox ids, and consecutive transactions may be published together. The token in ``rowcast_transaction`` is
the id of all rows until the token changes. A relay changes the token before reading, never within a transaction.
Listeners change the token when writing at commit. The trigger changes the token after a different writer.

**REPLACE** deletes conflicting rows without firing triggers, unless a program sets ``recursive_triggers``. Therefore a
BEFORE trigger records the rows with a unique value of the new row, and the AFTER trigger writes a line for each deleted
row.

**Collations.** Keys are compared byte by byte, because NOCASE and RTRIM take different keys for equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from rowcast.producer.database.dialects import capture_dialect, transaction_ids
from rowcast.producer.database.dialects.transaction_ids import DISPLACED_TABLE
from rowcast.producer.outbox.line_writer import gone_line, row_line
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.row_filter import stored_value
from rowcast.producer.triggers.base import InstalledTrigger, TriggerComment, TriggerDialect, trigger_name
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.images.masks import DIGEST_FUNCTION
from rowcast.shared.images.sqlite import SQLiteImages
from rowcast.shared.tables.shape import PortableType

_LONGEST = 200

_NUMBERS = frozenset(("boolean", "int16", "int32", "int64", "uint64", "float32", "float64"))


class SQLiteTriggers(TriggerDialect):
    """Capture by row triggers on SQLite."""

    events = ("insert", "update", "delete")
    harm_of_older_forms = "which do not delete a key of which only the case changed"

    def compile_options(self) -> dict[str, Any]:
        return {**super().compile_options(), "images": _NativeImages}

    def check_supported(self, table: CapturedTable) -> None:
        if table.shape.schema != self.default_schema:
            raise ConfigurationError(
                f"{table.full_name} is in another file than the outbox, and SQLite's triggers can only write into "
                "their own file. Capture the table by listeners."
            )
        if DIGEST_FUNCTION in "".join(self.create_statements(table, "")):
            hashed = [c.name for c in table.shape.columns if c.masking is not None and c.masking.hash is not None]
            raise ConfigurationError(
                f"triggers cannot hash columns of {table.full_name}, because SQLite has no hash function and other "
                f"programs bring none. Mask or leave out {', '.join(hashed)}, or capture the table by listeners."
            )

        if (hindrance := self._hindrance()) is not None:
            raise ConfigurationError(
                f"the triggers of {table.full_name} would fail, because {hindrance}. Set PRAGMA trusted_schema = ON on "
                "every connection that changes the table, or capture the table by listeners."
            )

    def faults(self, schema: str, name: str) -> Iterator[str]:
        if (hindrance := self._hindrance()) is not None:
            yield f"the triggers fail, because {hindrance}"

    def _hindrance(self) -> str | None:
        return capture_dialect(self.connection.dialect).hindrance_to_triggers(self.connection)

    def create_shared(self, table: CapturedTable) -> None:
        if not self.connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
            # The driver begins no transaction before DDL.
            self.execute("BEGIN IMMEDIATE")
        token = self.quote(transaction_ids.TRANSACTION_TABLE)
        self.execute(
            f"CREATE TABLE IF NOT EXISTS {token} "
            "(id INTEGER PRIMARY KEY CHECK (id = 1), tx TEXT NOT NULL, used INTEGER NOT NULL)"
        )
        self.execute(f"INSERT OR IGNORE INTO {token} VALUES (1, {transaction_ids.NEW_TOKEN}, 0)")
        self.execute(
            f"CREATE TABLE IF NOT EXISTS {DISPLACED_TABLE} (table_name TEXT NOT NULL, number INTEGER, line TEXT)"
        )

    def create_statements(self, table: CapturedTable, marker: str) -> Sequence[str]:
        gone = self.compile(gone_line(table, self.values_of("OLD"), self.values_of("OLD")))
        still = f"SELECT coalesce(({self._found(table, 'u', 'OLD')}), {gone}) AS line"
        added = f"{self._found(table, 'c', 'NEW')} AND NOT ({self._is_key(table, 'OLD', 'NEW')})"
        lines = {
            "insert": self._found(table, "c", "NEW"),
            "update": f"{still}\nUNION ALL\n{added}",
            "delete": still,
        }
        conflicts = self._conflicts(table)
        displaced = self._write_displaced(table, conflicts) if conflicts else ""
        statements = [
            *self.drop_statements(table.shape.schema, table.shape.name),
            *(
                f"CREATE TRIGGER {self._name(table.shape.name, event)} AFTER {event.upper()} "
                f"ON {self.quote(table.shape.name)}\nBEGIN\n/* {marker} */\n{transaction_ids.USE_TOKEN};\n"
                f"{displaced if event != 'delete' else ''}{self._write(line)}END"
                for event, line in lines.items()
            ),
        ]
        if conflicts:
            is_old = self._is_key(table, self.quote(table.shape.name), "OLD")
            for event, others in (("insert", ""), ("update", f" AND NOT ({is_old})")):
                statements.append(
                    f"CREATE TRIGGER {self._name(table.shape.name, f'before{event}')} BEFORE {event.upper()} "
                    f"ON {self.quote(table.shape.name)}\nBEGIN\n/* {marker} */\n"
                    f"{self._record_displaced(table, f'({conflicts}){others}')}END"
                )
        return statements

    def _conflicts(self, table: CapturedTable) -> str:
        """Return the condition that a stored row has a unique value of NEW, so that REPLACE would delete it.

        Return "" if REPLACE cannot delete rows without firing triggers. A row with the key of NEW needs no delete,
        because the line of NEW follows.
        """
        keys = [u.columns for u in table.table.constraints if isinstance(u, sa.UniqueConstraint)]
        keys += [index.columns for index in table.table.indexes if index.unique]
        name = self.quote(table.shape.name)
        conditions = {self._are_equal(columns, name, "NEW") for columns in keys}
        if self._folding_columns(table):
            same = self._are_equal(table.key_columns, name, "NEW")
            conditions.add(f"{same} AND NOT ({self._is_key(table, name, 'NEW')})")
        return " OR ".join(f"({one})" for one in sorted(conditions))

    def _are_equal(self, columns: Iterable[sa.Column[Any]], alias: str, other: str) -> str:
        names = [self.quote(str(c.name)) for c in columns]
        return " AND ".join(f"{alias}.{name} = {other}.{name}" for name in names)

    def _folding_columns(self, table: CapturedTable) -> Sequence[sa.Column[Any]]:
        """Return the key columns whose collation may take different values for equal."""
        return [c for c in table.key_columns if table.types[str(c.name)].name not in _NUMBERS]

    def _is_key(self, table: CapturedTable, alias: str, other: str) -> str:
        """Return the condition that two rows have identical stored keys."""
        folding = self._folding_columns(table)
        return " AND ".join(
            f"{alias}.{self.quote(str(c.name))}{' COLLATE BINARY' if c in folding else ''} "
            f"IS {other}.{self.quote(str(c.name))}"
            for c in table.key_columns
        )

    def same_key(self, table: CapturedTable, alias: str) -> str:
        # The first condition finds the row in the index.
        same = super().same_key(table, alias)
        if not self._folding_columns(table):
            return same
        return f"{same} AND {self._is_key(table, self.quote(table.shape.name), alias)}"

    def _record_displaced(self, table: CapturedTable, condition: str) -> str:
        line = self.compile(gone_line(table, stored_value, stored_value))
        name = self.literal(table.shape.name)
        return (
            f"DELETE FROM {DISPLACED_TABLE} WHERE table_name = {name};\n"
            f"INSERT INTO {DISPLACED_TABLE} (table_name, line) SELECT {name}, {line} "
            f"FROM {self.quote(table.shape.name)} WHERE {condition};\n"
        )

    def _write_displaced(self, table: CapturedTable, conflicts: str) -> str:
        """Return the statements that write the recorded lines of rows that are gone.

        A row that is still there was not replaced, for example under a partial index.
        """
        name = self.literal(table.shape.name)
        line = self.compile(gone_line(table, stored_value, stored_value))
        gone = (
            f"SELECT line FROM {DISPLACED_TABLE} WHERE table_name = {name} AND NOT EXISTS "
            f"(SELECT 1 FROM {self.quote(table.shape.name)} WHERE ({conflicts}) AND {line} = {DISPLACED_TABLE}.line)"
        )
        return f"{self._write(gone)}DELETE FROM {DISPLACED_TABLE} WHERE table_name = {name};\n"

    def drop_statements(self, schema: str, name: str) -> Sequence[str]:
        events = (*self.events, "beforeinsert", "beforeupdate")
        return [f"DROP TRIGGER IF EXISTS {self._name(name, event)}" for event in events]

    def installed(self) -> list[InstalledTrigger]:
        found = self.execute(
            "SELECT tbl_name, name, sql FROM sqlite_master "
            "WHERE type = 'trigger' AND name LIKE 'rowcast!_%' ESCAPE '!' ORDER BY tbl_name, name"
        )
        texts: dict[str, dict[str, str]] = {}
        for table, name, text in found:
            texts.setdefault(table, {})[name.split("_")[1]] = text
        installed = []
        for table, by_event in texts.items():
            markers = {TriggerComment.find(text) for text in by_event.values()}
            marker = markers.pop() if len(markers) == 1 else None
            installed.append(InstalledTrigger(self.default_schema, table, frozenset(by_event), marker))
        return installed

    def column_signature(self, schema: str, name: str) -> str:
        found = self.execute(f"SELECT name, type, pk FROM pragma_table_xinfo({self.literal(name)}) ORDER BY cid")
        return ", ".join(f"{column} {type_} {pk}" for column, type_, pk in found)

    def unseen_changes(self, schema: str, name: str) -> Iterator[str]:
        literal = self.literal(name)
        expressions = self.execute(
            f"SELECT DISTINCT l.name FROM pragma_index_list({literal}) AS l, pragma_index_xinfo(l.name) AS x "
            'WHERE l."unique" AND x.cid = -2 ORDER BY 1'
        )
        for index in expressions.scalars():
            yield f"rows that REPLACE deletes because of {index}, which is unique over an expression"
        columns = f"pragma_table_xinfo({literal})"
        key = self.execute(f'SELECT name, type, "notnull" FROM {columns} WHERE pk ORDER BY pk').all()
        is_rowid = len(key) == 1 and key[0][1].upper() == "INTEGER"
        for column in (column for column, _, not_null in key if not not_null and not is_rowid):
            yield f"rows without a key, because SQLite allows NULL in {column}. Declare the column NOT NULL"

    def _found(self, table: CapturedTable, op: str, alias: str) -> str:
        before = self.values_of(alias) if op == "u" else None
        line = self.compile(row_line(table, op, stored_value, before))
        name = self.quote(table.shape.name)
        return f"SELECT {line} AS line FROM {name} WHERE {self.same_key(table, alias)}"

    def _write(self, lines: str) -> str:
        # LIMIT keeps SQLite from making the image twice.
        return (
            "INSERT INTO rowcast_outbox (tx, ts_ms, changes)\n"
            f"SELECT (SELECT tx FROM {transaction_ids.TRANSACTION_TABLE}), {self.now}, line\n"
            f"FROM (\n{lines} LIMIT -1\n) WHERE line IS NULL OR line <> '';\n"
        )

    def _name(self, table: str, event: str) -> str:
        return self.quote(trigger_name(table, event, _LONGEST))


class _NativeImages(SQLiteImages):
    """Make row images without the functions that rowcast registers, because other programs lack the functions."""

    def value(self, sql: str, type_: PortableType) -> str:
        return _base64(sql) if type_.name == "bytes" else super().value(sql, type_)


def _base64(sql: str) -> str:
    """Return the SQL expression for the Base64 text of a value.

    It encodes three bytes at a time out of pieces of 1,200 bytes. Without pieces SQLite would copy the whole value for
    each three bytes. Without ORDER BY the order would follow the pragma ``reverse_unordered_selects``.
    """
    digits = (f"instr('0123456789ABCDEF', substr(h, {n}, 1)) - 1 << {24 - 4 * n}" for n in range(1, 7))
    first, second, third, fourth = (
        f"substr('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', (bits >> {shift} & 63) + 1, 1)"
        for shift in (18, 12, 6, 0)
    )
    piece = f"substr(CAST({sql} AS BLOB), {{}}, 1200)"
    return (
        f"CASE WHEN {sql} IS NOT NULL THEN coalesce((WITH RECURSIVE "
        f"pieces(start, piece) AS (SELECT 1, {piece.format('1')} UNION ALL "
        f"SELECT start + 1200, {piece.format('start + 1200')} FROM pieces WHERE length(piece) = 1200), "
        "starts(i) AS (SELECT 1 UNION ALL SELECT i + 3 FROM starts WHERE i < 1198) "
        f"SELECT group_concat({first} || {second} || CASE WHEN length(h) > 2 THEN {third} ELSE '=' END "
        f"|| CASE WHEN length(h) > 4 THEN {fourth} ELSE '=' END, '') "
        f"FROM (SELECT h, {' | '.join(f'({digit})' for digit in digits)} AS bits "
        "FROM (SELECT start, i, hex(substr(piece, i, 3)) AS h FROM pieces CROSS JOIN starts WHERE i <= length(piece) "
        "LIMIT -1) ORDER BY start, i LIMIT -1)), '') END"
    )
