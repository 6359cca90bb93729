"""Row triggers on MariaDB. A trigger cannot change its own table there, so NEW and OLD are what is stored.

**Which transaction?** No function tells a trigger. But InnoDB writes its transaction's number into rows of a
system-versioned table: the function that is installed here inserts a row into one, reads the number, and rolls the row
back to a savepoint, so that nothing of it is left, neither in the table nor in ``mysql.transaction_registry``. MySQL
has no such tables; its triggers could not tell two transactions of one connection apart, and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import ColumnElement

from rowcast.producer import transaction_names
from rowcast.producer.clock import now_ms
from rowcast.producer.outbox_lines import gone_line, row_line
from rowcast.producer.tables import CapturedTable
from rowcast.producer.triggers.dialect import Installed, Marker, TriggerDialect, trigger_name
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.images import Concatenation

_LONGEST = 64

# A text that does not fit must fail the application's statement, not be cut; literals and names are written for this.
_SQL_MODE = "STRICT_ALL_TABLES"


class MariaDBTriggers(TriggerDialect):
    events = ("insert", "update", "delete")

    def refuse(self, table: CapturedTable) -> None:
        schema, name = self.literal(table.shape.schema), self.literal(table.shape.name)
        engine = self.run(
            f"SELECT engine FROM information_schema.tables WHERE table_schema = {schema} AND table_name = {name}"
        ).scalar_one()
        if engine != "InnoDB":
            raise ConfigurationError(
                f"{table.full_name} is a table of the engine {engine}, whose changes are not rolled back with their "
                "record in the outbox. Make it one of InnoDB's: ALTER TABLE … ENGINE = InnoDB"
            )

    def prepare(self) -> None:
        table = self.qualified(self.default_schema, transaction_names.TABLE)
        function = self._transaction_id
        if not self.connection.dialect.has_table(self.connection, transaction_names.TABLE):
            self.run(
                f"CREATE TABLE {table} (connection bigint unsigned NOT NULL PRIMARY KEY, "
                "began bigint unsigned GENERATED ALWAYS AS ROW START INVISIBLE, "
                "ended bigint unsigned GENERATED ALWAYS AS ROW END INVISIBLE, "
                "PERIOD FOR SYSTEM_TIME (began, ended)) WITH SYSTEM VERSIONING ENGINE = InnoDB"
            )
        with self._sql_mode():
            # The second of the two rows has the key of the first, whose number can be read then; a SELECT costs more.
            self.run(
                f"CREATE FUNCTION IF NOT EXISTS {function}() RETURNS bigint unsigned MODIFIES SQL DATA\n"
                "BEGIN\n"
                "SAVEPOINT rowcast;\n"
                f"INSERT INTO {table} (connection) VALUES (CONNECTION_ID()), (CONNECTION_ID())\n"
                "ON DUPLICATE KEY UPDATE connection = IF((@rowcast_transaction := began) IS NULL, 0, connection);\n"
                "ROLLBACK TO SAVEPOINT rowcast;\n"
                "RETURN @rowcast_transaction;\n"
                "END"
            )

    @contextmanager
    def alone(self, table: CapturedTable) -> Iterator[None]:
        qualified = self.qualified(table.shape.schema, table.shape.name)
        shape = self.qualified(self.default_schema, "rowcast_shape")
        self.run(f"LOCK TABLES {qualified} WRITE, {shape} WRITE")
        try:
            with self._sql_mode():
                yield
        finally:
            self.run("UNLOCK TABLES")

    @contextmanager
    def _sql_mode(self) -> Iterator[None]:
        before = self.run("SELECT @@sql_mode").scalar_one()
        self.run(f"SET sql_mode = '{_SQL_MODE}'")
        try:
            yield
        finally:
            self.run(f"SET sql_mode = '{before}'")

    def create(self, table: CapturedTable, marker: str) -> Sequence[str]:
        new, old = self.of("NEW"), self.of("OLD")
        unchanged = " AND ".join(
            f"BINARY OLD.{name} <=> BINARY NEW.{name}" for name in (self.quote(str(c.name)) for c in table.key_columns)
        )
        updated = self._set(row_line(table, "u", new, old))
        rekeyed = self._set(Concatenation(gone_line(table, old, old), row_line(table, "c", new)))
        lines = {
            "insert": self._set(row_line(table, "c", new)),
            "update": f"IF {unchanged} THEN\n{updated}ELSE\n{rekeyed}END IF;\n",
            "delete": self._set(gone_line(table, old, old)),
        }
        return [
            f"CREATE OR REPLACE TRIGGER {self._name(table.shape.schema, table.shape.name, event)} "
            f"AFTER {event.upper()} ON {self.qualified(table.shape.schema, table.shape.name)} FOR EACH ROW\n"
            f"BEGIN\n/* {marker} */\nDECLARE rowcast_line longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;\n{line}"
            "IF rowcast_line IS NULL OR rowcast_line <> '' THEN\n"
            f"INSERT INTO {self.outbox} (tx, ts_ms, changes)\n"
            f"VALUES ({self._transaction_id}(), {self.sql(now_ms(self.dialect))}, rowcast_line);\n"
            "END IF;\nEND"
            for event, line in lines.items()
        ]

    def drop(self, schema: str, name: str) -> Sequence[str]:
        return [f"DROP TRIGGER IF EXISTS {self._name(schema, name, event)}" for event in self.events]

    def installed(self) -> list[Installed]:
        found = self.run(
            "SELECT event_object_schema, event_object_table, lower(event_manipulation), action_statement "
            "FROM information_schema.triggers WHERE trigger_name LIKE 'rowcast!_%' ESCAPE '!' ORDER BY 1, 2, 3"
        )
        texts: dict[tuple[str, str], dict[str, str]] = {}
        for schema, name, event, text in found:
            # A server may have other applications' databases, with outboxes of their own.
            if f"INSERT INTO {self.outbox} " in text:
                texts.setdefault((schema, name), {})[event] = text
        installed = []
        for (schema, name), by_event in texts.items():
            markers = {Marker.find(text) for text in by_event.values()}
            marker = markers.pop() if len(markers) == 1 else None
            installed.append(Installed(schema, name, frozenset(by_event), marker))
        return installed

    def columns(self, schema: str, name: str) -> str:
        found = self.run(
            "SELECT column_name, column_type, if(column_key = 'PRI', 'key', '') FROM information_schema.columns "
            f"WHERE table_schema = {self.literal(schema)} AND table_name = {self.literal(name)} "
            "ORDER BY ordinal_position"
        )
        return ", ".join(" ".join(column) for column in found)

    def unseen(self, schema: str, name: str) -> Iterator[str]:
        found = self.run(
            "SELECT constraint_name, delete_rule, update_rule, referenced_table_name "
            "FROM information_schema.referential_constraints "
            f"WHERE constraint_schema = {self.literal(schema)} AND table_name = {self.literal(name)} ORDER BY 1"
        )
        for constraint, delete_rule, update_rule, referred in found:
            for event, rule in (("DELETE", delete_rule), ("UPDATE", update_rule)):
                if rule in ("CASCADE", "SET NULL", "SET DEFAULT"):
                    yield f"rows that the foreign key {constraint} changes (ON {event} {rule} of {referred})"

    @property
    def _transaction_id(self) -> str:
        return self.qualified(self.default_schema, transaction_names.FUNCTION)

    def _name(self, schema: str, table: str, event: str) -> str:
        return self.qualified(schema, trigger_name(table, event, _LONGEST))

    def _set(self, line: ColumnElement[str]) -> str:
        return f"SET rowcast_line = {self.sql(line)};\n"
