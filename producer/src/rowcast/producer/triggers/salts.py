"""Keep the salts of hashes in a table of PostgreSQL that only the owner of the trigger functions reads.

Every role can read the text of every function in ``pg_proc``, so that a salt in the text would be no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.triggers.base import TriggerDialect
from rowcast.shared.errors import ConfigurationError

SALT_TABLE = "rowcast_salt"

_STRANGER = """
SELECT pg_get_userbyid(s.relowner) FROM pg_class AS s, pg_class AS o
WHERE s.oid = to_regclass(:name) AND o.oid = to_regclass(:outbox)
AND s.relowner <> o.relowner AND pg_get_userbyid(s.relowner) <> current_user
"""
_GRANTEES = """
SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE CAST(CAST(acl.grantee AS regrole) AS text) END
FROM pg_class AS s, aclexplode(s.relacl) AS acl
WHERE s.oid = to_regclass(:name) AND acl.grantee <> s.relowner
"""

_COLUMNS = "table_name pg_catalog.text, column_name pg_catalog.text, salt pg_catalog.text NOT NULL"


class Salts:
    """Hold the salts of one captured table for the functions of its triggers."""

    def __init__(self, triggers: TriggerDialect, table: CapturedTable) -> None:
        self._table = table
        self._name = triggers.qualified(triggers.default_schema, SALT_TABLE)
        self._outbox = triggers.outbox
        self._quote = triggers.quote
        self._literal = triggers.literal
        self._variables = {column: f"rowcast_salt_{n}" for n, column in enumerate(sorted(table.salts))}

    def replaced(self) -> CapturedTable:
        """Return the captured table with the functions' variables in place of the salts."""
        return self._table.with_salts({c: sa.literal_column(v, sa.Text()) for c, v in self._variables.items()})

    def declarations(self) -> list[str]:
        """Return the lines of the function that declare the variables."""
        lines = [f"{variable} pg_catalog.text;" for variable in self._variables.values()]
        return ["DECLARE", *lines] if lines else []

    def reads(self) -> list[str]:
        """Return the statements of the function that read the salts. A missing salt is an error, and never NULL."""
        return [
            f"SELECT s.salt INTO STRICT {variable} FROM {self._name} AS s "
            f"WHERE s.table_name = {self._literal(self._table.full_name)} AND s.column_name = {self._literal(column)};"
            for column, variable in self._variables.items()
        ]

    def store(self, connection: sa.Connection, reader: str) -> None:
        """Write the salts, and let ``reader`` read them. Nothing is done for a table without hashes.

        Raises ConfigurationError if an unknown role owns the salt table, because that role could read the salts.
        """
        if not self._variables:
            return
        if self._execute(connection, "SELECT to_regclass(:name)", {"name": self._name}).scalar() is None:
            self._create(connection)
        names = {"name": self._name, "outbox": self._outbox}
        if stranger := self._execute(connection, _STRANGER, names).scalar():
            raise ConfigurationError(
                f"the role {stranger} owns the table {self._name} and could read the salts of hashes. Drop the table, "
                "or let the owner of rowcast_outbox own it."
            )
        for column, salt in self._table.salts.items():
            self._execute(
                connection,
                f"INSERT INTO {self._name} VALUES (:table, :column, :salt) "
                "ON CONFLICT (table_name, column_name) DO UPDATE SET salt = excluded.salt",
                {"table": self._table.full_name, "column": column, "salt": salt},
            )
        self._execute(connection, f"GRANT SELECT ON {self._name} TO {self._quote(reader)}")

    def _create(self, connection: sa.Connection) -> None:
        self._execute(connection, f"CREATE TABLE {self._name} ({_COLUMNS}, PRIMARY KEY (table_name, column_name))")
        # Default privileges may let other roles read every new table.
        for grantee in self._execute(connection, _GRANTEES, {"name": self._name}).scalars().all():
            self._execute(connection, f"REVOKE ALL ON {self._name} FROM {grantee}")

    def are_stored(self, connection: sa.Connection) -> bool:
        """Return whether the salt table has the salts of the settings. True if the role may not read the salts."""
        if not self._variables:
            return True
        readable = "SELECT has_table_privilege(to_regclass(:name), 'SELECT')"
        if not self._execute(connection, readable, {"name": self._name}).scalar():
            return True
        query = f"SELECT column_name, salt FROM {self._name} WHERE table_name = :table"
        rows = self._execute(connection, query, {"table": self._table.full_name}).mappings()
        stored = {row["column_name"]: row["salt"] for row in rows}
        return all(stored.get(column) == salt for column, salt in self._table.salts.items())

    def _execute(
        self, connection: sa.Connection, text: str, parameters: Mapping[str, Any] | None = None
    ) -> sa.CursorResult[Any]:
        return connection.execute(sa.text(text), parameters, execution_options=INTERNAL_STATEMENT)
