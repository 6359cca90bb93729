"""Note the keys that a transaction's statements change, in order and savepoint by savepoint."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rowcast.producer.capture.notes.folding import Flags, fold_touches, may_all_be_gone, resolve_equal_keys
from rowcast.producer.capture.notes.folding import Touch as Touch
from rowcast.producer.database.row_locks import BeforeImages, Key
from rowcast.producer.tables.captured import CapturedTable
from rowcast.producer.tables.stored_keys import Catalogue
from rowcast.shared.errors import CaptureError

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import UpdateBase


class Note(NamedTuple):
    """Hold the keys of a statement.

    ``locked``: the transaction is known to hold the locks of the rows, because the statement found or made each row.
    """

    table: CapturedTable
    touch: Touch
    keys: tuple[Key, ...]
    locked: bool


class Expected(NamedTuple):
    """Hold a statement on the fast path during the execution. The parameters name the keys."""

    statement: UpdateBase
    table: CapturedTable
    touch: Touch
    keys: tuple[Key, ...]


Folded = Mapping[CapturedTable, Mapping[Key, Flags]]
"""The changed keys of each table, each key once, with its flags. The order is that of the first touches."""


class TransactionNotes:
    """Hold the notes of a connection's transaction.

    The notes of a savepoint are removed when the savepoint is rolled back. They must not stay, because the rollback
    releases the locks of the rows. An image that is read without the lock may be older than an image that another
    transaction has already written.
    """

    expected: Expected | None = None
    """The statement on the fast path that is being executed."""
    key_count = 0
    """The number of keys in all entries."""
    shapes_written = False
    """Whether this transaction has written shapes."""
    outbox_written = False
    """Whether statements have written to the outbox themselves, without the transaction's context."""
    unseen_changes_until = 0
    """The number of entries before the last statement whose changes the capture does not know."""
    is_checked = False
    """Whether the transaction is known to be one, in which a change and its outbox row can be together."""
    may_have_ended = False
    """Whether a statement was executed that may have ended the transaction."""
    is_late = False
    """Whether the notes were drained for the last time, so that each further statement must be drained at once."""
    schemas: dict[str, str] | None = None
    """The schemas in which the database finds tables without a schema, if SQL text may have changed it."""
    key_catalogues: dict[str, Catalogue] | None = None
    """What the database knew of keys, by schema, when this transaction first used a table of the schema."""
    _transaction_id: str | None = None
    _beginning: str | None = None
    """The savepoint at which the transaction began."""

    def __init__(self) -> None:
        self.entries: list[Note] = []
        self.pending: list[Any] = []
        """The pending statements on the full path. They are being executed, or have failed."""
        self._savepoints: list[tuple[str, int]] = []
        self._before_images: list[tuple[int, CapturedTable, BeforeImages]] = []
        self._refusals: list[tuple[int, CaptureError]] = []

    @property
    def transaction_id(self) -> str:
        """Return an id for the transaction, for databases without transaction ids."""
        if self._transaction_id is None:
            self._transaction_id = uuid.uuid4().hex
        return self._transaction_id

    def restart(self) -> None:
        """Forget everything, because the database has ended the transaction."""
        self.__dict__.clear()
        self.__init__()  # type: ignore[misc]

    def continue_drained(self, transaction_id: str) -> None:
        """Let each further statement be drained at once, under the id of the transaction."""
        self.is_late = True
        self._transaction_id = transaction_id

    @property
    def in_savepoint(self) -> bool:
        """Say whether a savepoint is open. A rollback to the savepoint would also remove outbox rows written now."""
        return bool(self._savepoints)

    def note(self, table: CapturedTable, touch: Touch, keys: Iterable[Key], *, locked: bool) -> None:
        """Note the keys of rows changed by a statement."""
        if keys := tuple(keys):
            self.entries.append(Note(table, touch, keys, locked))
            self.key_count += len(keys)

    def note_unseen_change(self) -> None:
        """Note a statement that was not captured. Rows noted before the statement may be gone."""
        self.unseen_changes_until = len(self.entries)

    def take_pending(self, statement: UpdateBase | None) -> list[Any]:
        """Remove and return the pending ``statement``, and all pending DML in CTEs."""
        pending = self.pending
        taken = [one for one in pending if one.statement is statement or one.setting is not None]
        self.pending = [] if len(taken) == len(pending) else [one for one in pending if one not in taken]
        return taken

    def refuse_commit(self, error: CaptureError) -> None:
        """Refuse the commit with ``error``, because an executed statement changed rows that cannot be found out.

        The refusal ends when the savepoint of the statement is rolled back.
        """
        self._refusals.append((len(self._savepoints), error))

    def raise_refusal(self) -> None:
        """Raise the CaptureError of the first refusal, if any."""
        for _, error in self._refusals:
            raise error

    def remember_before_images(self, table: CapturedTable, images: BeforeImages) -> None:
        """Remember images of rows, read before the changing statement."""
        if images:
            self._before_images.append((len(self.entries), table, images))

    def before_images(self) -> Mapping[CapturedTable, BeforeImages]:
        """Return the images of rows as they were before the transaction.

        An image counts only if read before the first touch of the key.
        """
        found: dict[CapturedTable, dict[Key, str]] = {}
        touched: set[tuple[CapturedTable, Key]] = set()
        newest = self._newest_tables()
        processed = 0
        for position, table, images in self._before_images:
            for note in self.entries[processed:position]:
                touched.update((newest[note.table], key) for key in note.keys)
            processed = position
            table = newest.get(table, table)
            kept = found.setdefault(table, {})
            for key, image in images.items():
                if (table, key) not in touched:
                    kept.setdefault(key, image)
        return found

    def clear_drained(self) -> None:
        """Remove the entries, because the outbox has them now.

        Inside a savepoint the entries stay, because a rollback may remove the outbox rows.
        """
        if not self._savepoints:
            self.entries.clear()
            self.unseen_changes_until = 0
            self._before_images.clear()
            self.key_count = 0

    def savepoint(self, name: str, *, begins_transaction: bool = False) -> None:
        """Begin a savepoint. ``begins_transaction``: the release of the savepoint commits."""
        self._savepoints.append((name, len(self.entries)))
        if begins_transaction:
            self._beginning = name

    def begins_with(self, name: str) -> bool:
        """Return whether the transaction began at the savepoint."""
        return self._beginning == name

    def rollback_to(self, name: str) -> None:
        """Roll back a savepoint: remove all notes made inside."""
        for i in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[i][0] == name:
                first = self._savepoints[i][1]
                self.key_count -= sum(len(note.keys) for note in self.entries[first:])
                del self.entries[first:]
                self.unseen_changes_until = min(self.unseen_changes_until, first)
                self._before_images = [image for image in self._before_images if image[0] < first]
                del self._savepoints[i:]
                self._refusals = [refusal for refusal in self._refusals if refusal[0] <= i]
                return

    def release(self, name: str) -> None:
        """Release a savepoint and keep the notes."""
        for i in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[i][0] == name:
                del self._savepoints[i:]
                self._refusals = [(min(depth, i), error) for depth, error in self._refusals]
                return

    def fold(self) -> Folded:
        """Fold the entries to each key once, as ``folding`` describes."""
        tables: dict[CapturedTable, dict[Key, Flags]] = {}
        newest = self._newest_tables()
        for position, note in enumerate(self.entries):
            if position == self.unseen_changes_until:
                may_all_be_gone(tables.values())
            fold_touches(tables.setdefault(newest[note.table], {}), note.keys, note.touch, locked=note.locked)
        if self.unseen_changes_until == len(self.entries):
            may_all_be_gone(tables.values())
        for keys in tables.values():
            resolve_equal_keys(keys)
        return tables

    def _newest_tables(self) -> Mapping[CapturedTable, CapturedTable]:
        """Return the newest object for each object of a noted table.

        A table has several objects if the catalogue was read again meanwhile.
        """
        objects = dict.fromkeys(note.table for note in self.entries)
        newest = {table.full_name: table for table in objects}
        return {table: newest[table.full_name] for table in objects}
