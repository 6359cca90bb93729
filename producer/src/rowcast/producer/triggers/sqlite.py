"""Row triggers on SQLite. They read the row from the table: what is stored there has its column's type, and a trigger
of the application's may have changed it again.

**Which transaction?** SQLite tells nobody. But it has a single writer, so what is committed is in the order of the
outbox's ids, and transactions that follow each other may be published as one. The token in ``rowcast_transaction``
names what is written until the token is changed: by a relay before it looks, which cannot come in the middle of a
transaction; by the capture's listeners when they write at commit; and by the trigger itself where others have written
meanwhile.

**REPLACE** deletes rows that are in the way, and fires no triggers for them (unless a program sets
``recursive_triggers``). So a BEFORE trigger notes the rows that have one of the new row's unique values, and the AFTER
trigger tells of those that are gone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from rowcast.producer import transaction_names
from rowcast.producer.clock import now_ms
from rowcast.producer.outbox_lines import gone_line, row_line
from rowcast.producer.predicates import stored
from rowcast.producer.tables import CapturedTable
from rowcast.producer.transaction_names import DISPLACED
from rowcast.producer.triggers.dialect import Installed, Marker, TriggerDialect, trigger_name
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.images.masks import DIGEST_FUNCTION
from rowcast.shared.images.sqlite import SQLiteImages
from rowcast.shared.shapes import PortableType

_LONGEST = 200

_ROWID = "_rowid_"


class SQLiteTriggers(TriggerDialect):
    events = ("insert", "update", "delete")

    def compile_options(self) -> dict[str, Any]:
        return {**super().compile_options(), "images": _PlainImages}

    def refuse(self, table: CapturedTable) -> None:
        if table.shape.schema != self.default_schema:
            raise ConfigurationError(
                f"{table.full_name} is in another file than the outbox, and SQLite's triggers write into their own "
                "file only. Capture it by listeners."
            )
        if DIGEST_FUNCTION in "".join(self.create(table, "")):
            hashed = [c.name for c in table.shape.columns if c.masking is not None and c.masking.hash is not None]
            raise ConfigurationError(
                f"{table.full_name}: SQLite has no hash function, and its triggers run in programs that bring none. "
                f"Mask or leave out {', '.join(hashed)}, or capture the table by listeners."
            )

    def prepare(self) -> None:
        if not self.connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
            # The driver begins none before DDL.
            self.run("BEGIN IMMEDIATE")
        table = self.quote(transaction_names.TABLE)
        self.run(
            f"CREATE TABLE IF NOT EXISTS {table} "
            "(id INTEGER PRIMARY KEY CHECK (id = 1), tx TEXT NOT NULL, used INTEGER NOT NULL)"
        )
        self.run(f"INSERT OR IGNORE INTO {table} VALUES (1, {transaction_names.NEW_TOKEN}, 0)")
        self.run(f"CREATE TABLE IF NOT EXISTS {DISPLACED} (table_name TEXT NOT NULL, number INTEGER, line TEXT)")

    def create(self, table: CapturedTable, marker: str) -> Sequence[str]:
        gone = self.sql(gone_line(table, self.of("OLD"), self.of("OLD")))
        names = [self.quote(str(c.name)) for c in table.key_columns]
        same = " AND ".join(f"OLD.{name} IS NEW.{name}" for name in names)
        still = f"SELECT coalesce(({self._found(table, 'u', 'OLD')}), {gone}) AS line"
        added = f"{self._found(table, 'c', 'NEW')} AND NOT ({same})"
        lines = {
            "insert": self._found(table, "c", "NEW"),
            "update": f"{still}\nUNION ALL\n{added}",
            "delete": still,
        }
        rivals = self._rivals(table)
        told = self._tell_displaced(table) if rivals else ""
        statements = [
            *self.drop(table.shape.schema, table.shape.name),
            *(
                f"CREATE TRIGGER {self._name(table.shape.name, event)} AFTER {event.upper()} "
                f"ON {self.quote(table.shape.name)}\nBEGIN\n/* {marker} */\n{transaction_names.USE_TOKEN};\n"
                f"{told if event != 'delete' else ''}{self._write(line)}END"
                for event, line in lines.items()
            ),
        ]
        if rivals:
            for event, others in (("insert", ""), ("update", f" AND {self._number(table)} <> OLD.{_ROWID}")):
                statements.append(
                    f"CREATE TRIGGER {self._name(table.shape.name, f'before{event}')} BEFORE {event.upper()} "
                    f"ON {self.quote(table.shape.name)}\nBEGIN\n/* {marker} */\n"
                    f"{self._note_displaced(table, f'({rivals}){others}')}END"
                )
        return statements

    def _rivals(self, table: CapturedTable) -> str:
        """The condition that a row has a unique value of NEW's; empty if there is nothing that REPLACE could delete
        unseen."""
        keys = [u.columns for u in table.table.constraints if isinstance(u, sa.UniqueConstraint)]
        keys += [index.columns for index in table.table.indexes if index.unique]
        name = self.quote(table.shape.name)
        conditions = {
            " AND ".join(f"{name}.{self.quote(str(c.name))} = NEW.{self.quote(str(c.name))}" for c in columns)
            for columns in keys
        }
        return " OR ".join(f"({one})" for one in sorted(conditions)) if self._has_rowid(table) else ""

    def _has_rowid(self, table: CapturedTable) -> bool:
        """Not WITHOUT ROWID, and no column that hides it."""
        definition = self.run(
            f"SELECT sql FROM sqlite_master WHERE type = 'table' AND name = {self.literal(table.shape.name)}"
        ).scalar_one()
        return _ROWID not in table.table.columns and not re.search(r"\bWITHOUT\s+ROWID\b", definition, re.IGNORECASE)

    def _number(self, table: CapturedTable) -> str:
        return f"{self.quote(table.shape.name)}.{_ROWID}"

    def _note_displaced(self, table: CapturedTable, condition: str) -> str:
        line = self.sql(gone_line(table, stored, stored))
        name = self.literal(table.shape.name)
        return (
            f"DELETE FROM {DISPLACED} WHERE table_name = {name};\n"
            f"INSERT INTO {DISPLACED} SELECT {name}, {self._number(table)}, {line} "
            f"FROM {self.quote(table.shape.name)} WHERE {condition};\n"
        )

    def _tell_displaced(self, table: CapturedTable) -> str:
        name = self.literal(table.shape.name)
        gone = (
            f"SELECT line FROM {DISPLACED} WHERE table_name = {name} AND NOT EXISTS "
            f"(SELECT 1 FROM {self.quote(table.shape.name)} WHERE {self._number(table)} = {DISPLACED}.number)"
        )
        return f"{self._write(gone)}DELETE FROM {DISPLACED} WHERE table_name = {name};\n"

    def drop(self, schema: str, name: str) -> Sequence[str]:
        events = (*self.events, "beforeinsert", "beforeupdate")
        return [f"DROP TRIGGER IF EXISTS {self._name(name, event)}" for event in events]

    def installed(self) -> list[Installed]:
        found = self.run(
            "SELECT tbl_name, name, sql FROM sqlite_master "
            "WHERE type = 'trigger' AND name LIKE 'rowcast!_%' ESCAPE '!' ORDER BY tbl_name, name"
        )
        texts: dict[str, dict[str, str]] = {}
        for table, name, text in found:
            texts.setdefault(table, {})[name.split("_")[1]] = text
        installed = []
        for table, by_event in texts.items():
            markers = {Marker.find(text) for text in by_event.values()}
            marker = markers.pop() if len(markers) == 1 else None
            installed.append(Installed(self.default_schema, table, frozenset(by_event), marker))
        return installed

    def columns(self, schema: str, name: str) -> str:
        found = self.run(f"SELECT name, type, pk FROM pragma_table_xinfo({self.literal(name)}) ORDER BY cid")
        return ", ".join(f"{column} {type_} {pk}" for column, type_, pk in found)

    def _found(self, table: CapturedTable, op: str, alias: str) -> str:
        before = self.of(alias) if op == "u" else None
        line = self.sql(row_line(table, op, stored, before))
        name = self.quote(table.shape.name)
        return f"SELECT {line} AS line FROM {name} WHERE {self.same_key(table, alias)}"

    def _write(self, lines: str) -> str:
        # LIMIT keeps the image from being made twice.
        return (
            "INSERT INTO rowcast_outbox (tx, ts_ms, changes)\n"
            f"SELECT (SELECT tx FROM {transaction_names.TABLE}), {self.sql(now_ms(self.dialect))}, line\n"
            f"FROM (\n{lines} LIMIT -1\n) WHERE line IS NULL OR line <> '';\n"
        )

    def _name(self, table: str, event: str) -> str:
        return self.quote(trigger_name(table, event, _LONGEST))


class _PlainImages(SQLiteImages):
    """Without the functions that rowcast gives its own connections."""

    def value(self, sql: str, type_: PortableType) -> str:
        return _base64(sql) if type_.name == "bytes" else super().value(sql, type_)


def _base64(sql: str) -> str:
    """Three bytes at a time, out of pieces: what is as long as the value would be copied for each three of them."""
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
        "FROM (SELECT hex(substr(piece, i, 3)) AS h FROM pieces CROSS JOIN starts WHERE i <= length(piece) LIMIT -1) "
        "LIMIT -1)), '') END"
    )
