"""A DML statement on a captured table, between its two events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.dml import UpdateBase

from rowcast.producer import ctes
from rowcast.producer.announcements import Announcer
from rowcast.producer.old_rows import old_rows
from rowcast.producer.statements import Parameters
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import Key, OldRows, Touched
from rowcast.shared.errors import CaptureError

TRANSLATE = "schema_translate_map"

CapturedOf = Callable[[Connection, Any, Mapping[str | None, str | None] | None], CapturedTable | None]
"""The captured table that a statement's table is, under its ``schema_translate_map``."""


class Inserted(Enum):
    """Where the keys of inserted rows come from."""

    REPORTED = "SQLAlchemy knows them"
    INJECTED = "a RETURNING of ours"
    IN_OWN_RETURNING = "they are in the application's RETURNING"
    ADDED = "added to the application's RETURNING, and hidden from it"
    APPENDED = "appended to the RETURNING's text, where the ORM does not look"


class Pending:
    """What is known of the statement and its rows. One is made for every statement: what most need not say is a default
    of the class."""

    inserted = Inserted.REPORTED
    keys: tuple[Key, ...] | None = None
    new_keys: tuple[Key, ...] | None = None
    reached: Sequence[tuple[CapturedTable, Sequence[Key]]] = ()
    """Rows of this and other tables that the statement may change too, locked."""
    old_rows: Sequence[tuple[CapturedTable, OldRows]] = ()
    """Those rows as they are before the statement, of tables whose events carry them."""
    rekeyed: Sequence[sa.ForeignKeyConstraint] = ()
    """The foreign keys that change the primary keys of children."""
    returns = False
    """Whether ``return_defaults`` brings the keys back."""
    appends = False
    """Whether a RETURNING does that is appended to the text: on the fastest way, past SQLAlchemy's rows."""
    wrapped = False
    """Whether that text is wrapped in one that may write the images, too."""
    selected = False
    """Whether the keys were read, and locked, before the statement."""
    foreseen = False
    """Whether the new keys were computed beforehand, by the statement's own expressions."""
    rows_before = 0
    """Rows of the same statement that were executed one by one before."""
    rows_beside = 0
    """Rows of other tables that the statement changes too, and its rowcount counts."""
    setting: str | None = None
    """Of DML in a CTE: where the statement stores its keys."""

    def __init__(
        self, statement: UpdateBase, table: CapturedTable, stored: CapturedTable, sets: Parameters, options: Any
    ) -> None:
        self.statement = statement
        self.table = table
        """The table as the statement names it."""
        self.stored = stored
        """The table as the schema_translate_map makes it."""
        self.sets = sets
        self.options: Mapping[str, Any] = options
        """The execution options with which the rows are read."""

    @property
    def key_columns(self) -> tuple[sa.Column[Any], ...]:
        """Of the table as the statement names it."""
        return self.table.key_columns

    def unseen(self, announcer: Announcer, what: str) -> None:
        """Raises as ``Announcer.unseen``."""
        announcer.unseen(self.stored.full_name, what, str(self.statement))

    def see_old_rows(self, connection: Connection) -> None:
        """Reads the rows that will change, as they are now."""
        self.old_rows = [
            (table, old_rows(connection, table, keys))
            for table, keys in ((self.stored, self.keys or ()), *self.reached)
            if table.before and keys
        ]

    def keep_old_rows(self, notes: Touched) -> None:
        """Notes the rows that were read, before the statement's own keys are noted."""
        for table, rows in self.old_rows:
            notes.see(table, rows)

    def refuse_to_read_through_dml(self) -> None:
        """Raises CaptureError if reading what the statement will change would execute other DML."""
        if ctes.reads_through_dml(self.statement):
            raise CaptureError(
                f"a statement on {self.stored.full_name} has DML in a common table expression: which rows it changes "
                "must be read before, and reading them would execute that DML. Execute the two one after the other."
            )
