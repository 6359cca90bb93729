"""Capture by row triggers on MariaDB.

NEW and OLD are the stored rows, because a trigger on MariaDB cannot change its own table. The exception is an UPDATE
IGNORE: see ``_updated``.

**Transaction id.** MariaDB has no function for the id. But InnoDB writes the number of the transaction into the rows of
a system-versioned table. The installed function inserts a row into a system-versioned table, reads the number, and
deletes the row. Nothing remains in the table or in ``mysql.transaction_registry``. A rollback to a savepoint in its
place would end InnoDB's statement: if the application's statement failed later, its earlier rows would stay. MySQL has
no system-versioned tables, and triggers on MySQL could not distinguish two transactions of a connection. Therefore
rowcast refuses to install triggers on MySQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy.engine import Dialect

from rowcast.producer.database.dialects import transaction_ids
from rowcast.producer.outbox.line_writer import gone_line, row_line
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.row_filter import stored_value
from rowcast.producer.triggers.base import InstalledTrigger, TriggerComment, TriggerDialect, trigger_name
from rowcast.shared.errors import ConfigurationError

_LONGEST = 64

# A text that is too long must fail the application's statement, and must not be cut. The literals and names here are
# also written for this mode.
_SQL_MODE = "STRICT_ALL_TABLES"


class MariaDBTriggers(TriggerDialect):
    """Capture by row triggers on MariaDB."""

    events = ("insert", "update", "delete")
    harm_of_older_forms = (
        "which publish changes that UPDATE IGNORE did not make, and keep rows of a statement that fails"
    )
    rights_hint = (
        "The user needs TRIGGER on the table, and CREATE, CREATE ROUTINE, ALTER ROUTINE, SELECT, INSERT, UPDATE "
        "and DELETE on the database. Where the binary log is on, SUPER too, or log_bin_trust_function_creators = 1."
    )

    def literal_dialect(self, dialect: Dialect) -> Dialect:
        own = super().literal_dialect(dialect)
        # As under the SQL mode in which the triggers are made.
        own._backslash_escapes = True  # type: ignore[attr-defined]
        return own

    def check_supported(self, table: CapturedTable) -> None:
        schema, name = self.literal(table.shape.schema), self.literal(table.shape.name)
        engine = self.execute(
            f"SELECT engine FROM information_schema.tables WHERE table_schema = {schema} AND table_name = {name}"
        ).scalar_one()
        if engine != "InnoDB":
            raise ConfigurationError(
                f"{table.full_name} uses the storage engine {engine}, which does not roll back changes together with "
                "their outbox rows. Convert it: ALTER TABLE … ENGINE = InnoDB"
            )

    def create_shared(self, table: CapturedTable) -> None:
        helper = self.qualified(self.default_schema, transaction_ids.TRANSACTION_TABLE)
        function = self._transaction_id
        if not self.connection.dialect.has_table(self.connection, transaction_ids.TRANSACTION_TABLE):
            self.execute(
                f"CREATE TABLE {helper} (connection bigint unsigned NOT NULL PRIMARY KEY, "
                "began bigint unsigned GENERATED ALWAYS AS ROW START INVISIBLE, "
                "ended bigint unsigned GENERATED ALWAYS AS ROW END INVISIBLE, "
                "PERIOD FOR SYSTEM_TIME (began, ended)) WITH SYSTEM VERSIONING ENGINE = InnoDB"
            )
        with self._sql_mode():
            # The second row has the key of the first, so that ON DUPLICATE KEY can read the number of the first row.
            # A SELECT would cost more.
            self.execute(
                f"CREATE OR REPLACE FUNCTION {function}() RETURNS bigint unsigned MODIFIES SQL DATA\n"
                "BEGIN\n"
                f"INSERT INTO {helper} (connection) VALUES (CONNECTION_ID()), (CONNECTION_ID())\n"
                "ON DUPLICATE KEY UPDATE connection = IF((@rowcast_transaction := began) IS NULL, 0, connection);\n"
                f"DELETE FROM {helper} WHERE connection = CONNECTION_ID();\n"
                "RETURN @rowcast_transaction;\n"
                "END"
            )

    @contextmanager
    def writers_kept_out(self, table: CapturedTable) -> Iterator[None]:
        qualified = self.qualified(table.shape.schema, table.shape.name)
        shape = self.qualified(self.default_schema, "rowcast_shape")
        self.execute(f"LOCK TABLES {qualified} WRITE, {shape} WRITE")
        try:
            with self._sql_mode():
                yield
        finally:
            self.execute("UNLOCK TABLES")

    @contextmanager
    def _sql_mode(self) -> Iterator[None]:
        before = self.execute("SELECT @@sql_mode").scalar_one()
        self.execute(f"SET sql_mode = '{_SQL_MODE}'")
        try:
            yield
        finally:
            self.execute(f"SET sql_mode = '{before}'")

    def create_statements(self, table: CapturedTable, marker: str) -> Sequence[str]:
        new, old = self.values_of("NEW"), self.values_of("OLD")
        lines = {
            "insert": _set(self.compile(row_line(table, "c", new))),
            "update": self._updated(table),
            "delete": _set(self.compile(gone_line(table, old, old))),
        }
        return [
            f"CREATE OR REPLACE TRIGGER {self._name(table.shape.schema, table.shape.name, event)} "
            f"AFTER {event.upper()} ON {self.qualified(table.shape.schema, table.shape.name)} FOR EACH ROW\n"
            f"BEGIN\n/* {marker} */\nDECLARE rowcast_line longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;\n{line}"
            "IF rowcast_line IS NULL OR rowcast_line <> '' THEN\n"
            f"INSERT INTO {self.outbox} (tx, ts_ms, changes)\n"
            f"VALUES ({self._transaction_id}(), {self.now}, rowcast_line);\n"
            "END IF;\nEND"
            for event, line in lines.items()
        ]

    def drop_statements(self, schema: str, name: str) -> Sequence[str]:
        return [f"DROP TRIGGER IF EXISTS {self._name(schema, name, event)}" for event in self.events]

    def installed(self) -> list[InstalledTrigger]:
        found = self.execute(
            "SELECT event_object_schema, event_object_table, lower(event_manipulation), action_statement "
            "FROM information_schema.triggers WHERE trigger_name LIKE 'rowcast!_%' ESCAPE '!' ORDER BY 1, 2, 3"
        )
        texts: dict[tuple[str, str], dict[str, str]] = {}
        for schema, name, event, text in found:
            # The server may have databases of other applications, with outboxes of their own.
            if f"INSERT INTO {self.outbox} " in text:
                texts.setdefault((schema, name), {})[event] = text
        installed = []
        for (schema, name), by_event in texts.items():
            markers = {TriggerComment.find(text) for text in by_event.values()}
            marker = markers.pop() if len(markers) == 1 else None
            installed.append(InstalledTrigger(schema, name, frozenset(by_event), marker))
        return installed

    def column_signature(self, schema: str, name: str) -> str:
        found = self.execute(
            "SELECT column_name, column_type, if(column_key = 'PRI', 'key', '') FROM information_schema.columns "
            f"WHERE table_schema = {self.literal(schema)} AND table_name = {self.literal(name)} "
            "ORDER BY ordinal_position"
        )
        return ", ".join(" ".join(column) for column in found)

    def unseen_changes(self, schema: str, name: str) -> Iterator[str]:
        found = self.execute(
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
        return self.qualified(self.default_schema, transaction_ids.TRANSACTION_FUNCTION)

    def _name(self, schema: str, table: str, event: str) -> str:
        return self.qualified(schema, trigger_name(table, event, _LONGEST))

    def _updated(self, table: CapturedTable) -> str:
        """Return the statements that set the line of an update.

        The stored row is read, because an UPDATE IGNORE calls the trigger also for a row that it has left unchanged
        after an error. NEW then has values that were never stored.
        """
        old = self.values_of("OLD")
        names = [self.quote(str(c.name)) for c in table.key_columns]
        stored = [self.compile(c) for c in table.key_columns]
        key_is_kept = " AND ".join(f"BINARY OLD.{name} <=> BINARY NEW.{name}" for name in names)
        has_old_key = " AND ".join(f"BINARY {c} <=> BINARY OLD.{n}" for c, n in zip(stored, names, strict=True))
        updated = self._stored(table, self.compile(row_line(table, "u", stored_value, old)), "OLD")
        gone = self.compile(gone_line(table, old, old))
        created = self._stored(table, self.compile(row_line(table, "c", stored_value)), "NEW")
        return (
            f"IF {key_is_kept} THEN\n{_set(updated)}"
            f"ELSEIF {self._stored(table, has_old_key, 'OLD')} THEN\n{_set(self.literal(''))}"
            f"ELSE\n{_set(f'CONCAT({gone}, {created})')}END IF;\n"
        )

    def _stored(self, table: CapturedTable, value: str, alias: str) -> str:
        """Return the value from the stored row that has the key of the alias, or NULL without such a row.

        The transaction has locked the row already. Without the clause, a transaction at READ COMMITTED would read the
        row as it was at the first trigger of the statement, which may have waited for the lock since.
        """
        return f"(SELECT {value} FROM {self.from_clause(table)} WHERE {self.same_key(table, alias)} LOCK IN SHARE MODE)"


def _set(line: str) -> str:
    return f"SET rowcast_line = {line};\n"
