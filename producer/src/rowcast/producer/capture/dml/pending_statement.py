"""Hold a DML statement on a captured table until the keys of the changed rows are noted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.sql.dml import UpdateBase

from rowcast.producer.capture.dml import ctes
from rowcast.producer.capture.dml.before_images import read_before_images
from rowcast.producer.capture.dml.inspection import Parameters
from rowcast.producer.capture.dml.statement_tables import own_key_columns, own_stored_columns
from rowcast.producer.capture.notes.strictness import StrictnessRule
from rowcast.producer.capture.notes.transaction_notes import Touch, TransactionNotes
from rowcast.producer.database.row_locks import BeforeImages, Key
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.errors import CaptureError


class ChangedRows(ABC):
    """Find the keys of the rows that a pending statement changes itself, and note them after the statement.

    ``changed_rows`` and ``locked_rows`` have a class for each way of knowing the keys.
    """

    extends_sql = False
    """Whether ``extend_sql`` may return another text."""

    def extend_sql(self, connection: Connection, sql: str, pending: PendingStatement, context: Any) -> str:
        """Return the text that the driver executes in place of ``sql``. ``context``: SQLAlchemy's execution context."""
        return sql

    @abstractmethod
    def note(
        self, connection: Connection, pending: PendingStatement, result: CursorResult[Any], notes: TransactionNotes
    ) -> None:
        """Note the keys of the rows changed by the executed statement, and the side effects.

        Raises CaptureError if the keys cannot be found out.
        """

    def note_attempted(self, pending: PendingStatement, notes: TransactionNotes) -> bool:
        """Note the rows that a failed statement may have changed. Return False if the keys are not known."""
        return False


class PendingStatement:
    """Hold a statement, the tables and parameters, and the way of knowing the keys (``rows``).

    Attributes that most statements do not set are defaults of the class, because every statement on the full path makes
    an instance.
    """

    rows: ChangedRows
    """The rows that the statement itself changes, and the steps to find their keys."""
    keys: tuple[Key, ...] | None = None
    """The keys that are known before the statement runs, or None if only the statement gives them."""
    side_effects: Sequence[tuple[CapturedTable, Sequence[Key]]] = ()
    """Rows of this and other tables that the statement may change besides its own, by table. They are locked."""
    removes_side_effects = True
    """Whether a cascade or a REPLACE may delete these rows or change their keys."""
    before_images: Sequence[tuple[CapturedTable, BeforeImages]] = ()
    """Images, from before the statement, of all these rows whose tables have ``before = true``."""
    rows_executed_before: int = 0
    """The rows of the application's statement that were executed one by one before this last one."""
    changes_unseen = False
    """Whether the statement was warned of, so that it may change rows that are not noted."""
    setting: str | None = None
    """The setting in which DML in a CTE stores its keys. None for a statement that is not in a CTE."""

    def __init__(
        self, statement: UpdateBase, table: CapturedTable, stored: CapturedTable, sets: Parameters, options: Any
    ) -> None:
        self.statement = statement
        """The statement that runs. It may differ from the application's statement by a RETURNING."""
        self.table = table
        """The table as the statement names it."""
        self.stored = stored
        """The table in the schema that the ``schema_translate_map`` gives it."""
        self.sets = sets
        """The parameter sets, at least one."""
        self.options: Mapping[str, Any] = options
        """The execution options of queries that read the statement's rows."""
        self.key_columns: tuple[sa.Column[Any], ...] = own_key_columns(statement, table)
        """The key columns as columns of the statement's own table object."""

    @property
    def stored_columns(self) -> tuple[Any, ...]:
        """The primary key columns, with types for reading keys in their stored form."""
        return own_stored_columns(self.table, self.key_columns)

    def refuse_or_warn(self, strictness: StrictnessRule, what: str) -> None:
        """Refuse or warn of the statement, as ``StrictnessRule.refuse_or_warn`` does."""
        strictness.refuse_or_warn(self.stored.full_name, what, str(self.statement))
        self.changes_unseen = True

    def add_side_effect(self, table: CapturedTable, keys: Sequence[Key]) -> None:
        """Add locked rows that the statement may change as a side effect."""
        self.side_effects = [*self.side_effects, (table, keys)]

    def note_side_effects(self, notes: TransactionNotes) -> None:
        """Note the rows that the statement may have changed as a side effect."""
        for table, keys in self.side_effects:
            notes.note(table, Touch.DELETE if self.removes_side_effects else Touch.UPDATE, keys, locked=True)

    def read_before_images(self, connection: Connection) -> None:
        """Lock the rows to be changed, and read the before images, in tables with ``before = true``."""
        self.before_images = [
            (table, read_before_images(connection, table, keys))
            for table, keys in ((self.stored, self.keys or ()), *self.side_effects)
            if table.has_before_images and keys
        ]

    def note_before_images(self, notes: TransactionNotes) -> None:
        """Give the before images to the notes. Call this method before the statement's own keys are noted."""
        for table, images in self.before_images:
            notes.remember_before_images(table, images)

    def refuse_to_read_through_dml(self) -> None:
        """Raise CaptureError if a query for the statement's rows would execute other DML."""
        if ctes.reads_through_dml(self.statement):
            raise CaptureError(
                f"a statement on {self.stored.full_name} has DML in a common table expression: the capture must read "
                "the changed rows before the statement, and reading them would execute that DML. Execute the two "
                "statements one after the other."
            )
