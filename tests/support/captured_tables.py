"""Hold captured tables in a SQLite database in memory, and what the parts of an engine's capture share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.pool import StaticPool

from rowcast.producer.capture.dml.engine_scope import SCHEMA_TRANSLATE_MAP, EngineScope
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.engine_listeners import EngineListeners
from rowcast.producer.capture.notes.strictness import StrictnessRule
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from rowcast.producer.capture.transaction_context import TransactionContext
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.tables.captured import CapturedTable, CapturedTables


class CapturedShop:
    """Create the tables of a shop in a new database. ``owner`` has children with a foreign key ON UPDATE CASCADE."""

    def __init__(self) -> None:
        self.metadata = sa.MetaData()
        self.item = sa.Table(
            "item",
            self.metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("name", sa.String(50)),
        )
        self.line = sa.Table(
            "line",
            self.metadata,
            sa.Column("a", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("b", sa.String(10), primary_key=True),
            sa.Column("amount", sa.Integer),
        )
        self.audited = sa.Table(
            "audited",
            self.metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("name", sa.String(50)),
            info={"rowcast": {"before": True}},
        )
        self.owner = sa.Table("owner", self.metadata, sa.Column("id", sa.Integer, primary_key=True))
        self.pet = sa.Table(
            "pet",
            self.metadata,
            sa.Column(
                "owner_id",
                sa.ForeignKey("owner.id", onupdate="CASCADE", ondelete="CASCADE"),
                primary_key=True,
            ),
            sa.Column("name", sa.String(50), primary_key=True),
        )
        self.outbox = outbox_tables(self.metadata)
        self.engine = sa.create_engine("sqlite://", poolclass=StaticPool)
        self.tables = CapturedTables(self.metadata)
        self.listeners = EngineListeners(
            self.engine, self.tables, self.outbox, StrictnessRule("raise"), TransactionContext(), lambda: None
        )
        self.metadata.create_all(self.engine)

    @property
    def scope(self) -> EngineScope:
        """Return what the parts of the engine's capture share.

        A statement without known keys is refused, not warned about.
        """
        lookup = self.listeners.lookup
        return EngineScope(
            self.metadata, self.outbox, lookup.find_captured, lookup.find_declared, StrictnessRule("raise")
        )

    def connect(self) -> Connection:
        """Open a connection that has the SQL functions of row images."""
        connection = self.engine.connect()
        capture_dialect(self.engine.dialect).ensure_functions(connection)
        return connection

    def captured(self, connection: Connection, table: sa.Table) -> CapturedTable:
        """Return the captured table."""
        captured = self.listeners.lookup.find_captured(connection, table)
        assert captured is not None
        return captured

    def pending(self, connection: Connection, statement: Any, *sets: Mapping[str, Any]) -> PendingStatement:
        """Return a pending statement with these parameter sets."""
        table = self.captured(connection, statement.table)
        return PendingStatement(statement, table, table, list(sets) or [{}], {SCHEMA_TRANSLATE_MAP: None})

    def close(self) -> None:
        """Drop the database."""
        self.engine.dispose()


def noted(notes: TransactionNotes) -> list[tuple[str, str, list[Any], bool]]:
    """Return the entries as table name, touch, keys and whether the rows are locked."""
    return [(str(entry.table.table.name), entry.touch.value, list(entry.keys), entry.locked) for entry in notes.entries]


def execute_extended(connection: Connection, pending: PendingStatement, extend_sql: Callable[..., str]) -> Any:
    """Execute a statement with the text that ``ReturnedKeys.extend_sql`` makes of it. Return the result."""

    def extend(
        connection: Connection, cursor: Any, sql: str, parameters: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        return extend_sql(connection, sql, pending, context), parameters

    sa.event.listen(connection, "before_cursor_execute", extend, retval=True)
    try:
        return connection.execute(pending.statement, pending.sets if len(pending.sets) > 1 else pending.sets[0])
    finally:
        sa.event.remove(connection, "before_cursor_execute", extend)
