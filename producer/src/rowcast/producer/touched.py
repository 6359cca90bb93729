"""Which rows a transaction has touched, as noted by the listeners, in order, savepoint by savepoint."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from rowcast.producer.tables import CapturedTable
from rowcast.shared.errors import CaptureError

if TYPE_CHECKING:
    from sqlalchemy.sql.dml import UpdateBase

    from rowcast.producer.pending import Pending

Key = tuple[Any, ...]


class Touch(Enum):
    """What the statement did to the key."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"


class Note(NamedTuple):
    """One statement's keys. ``locked``: this transaction is known to hold these rows' locks."""

    table: CapturedTable
    touch: Touch
    keys: tuple[Key, ...]
    locked: bool


class Expected(NamedTuple):
    """A statement that is being executed and needs no help: its parameters name its rows."""

    statement: UpdateBase
    table: CapturedTable
    touch: Touch
    keys: tuple[Key, ...]


EXISTED = 1
"""A folded key's flag: its row was there before the transaction."""
LOCKED = 2
"""A folded key's flag: this transaction is known to hold its row's lock."""

OldRows = Mapping[Key, str]
"""By key, a row as it was, as a member of its outbox line."""

Folded = Mapping[CapturedTable, Mapping[Key, int]]
"""Per table, each touched key once, with its flags; tables and keys in the order of their first touch."""


class Touched:
    """The notes of one connection's transaction.

    What was noted inside a savepoint goes when the savepoint is rolled back: its row's lock is gone with it, and an
    image that is read without the lock may be older than one that another transaction has already written.
    """

    expected: Expected | None = None
    keys = 0
    """How many keys the notes hold."""
    shapes_written = False
    written = False
    """Whether statements have written to the outbox themselves, without the transaction's context."""
    _transaction: str | None = None

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.waiting: list[Pending] = []
        """Other statements that are being executed, or have failed."""
        self._savepoints: list[tuple[str, int]] = []
        self._seen: list[tuple[int, CapturedTable, OldRows]] = []
        self._refusals: list[tuple[int, CaptureError]] = []

    @property
    def transaction(self) -> str:
        """A name for the transaction, where the database has none to offer."""
        if self._transaction is None:
            self._transaction = uuid.uuid4().hex
        return self._transaction

    @property
    def in_savepoint(self) -> bool:
        """Whether a savepoint is open: what is written to the outbox now goes with it, if it is rolled back."""
        return bool(self._savepoints)

    def note(self, table: CapturedTable, touch: Touch, keys: Iterable[Key], *, locked: bool) -> None:
        """Notes the keys that a statement touched."""
        if keys := tuple(keys):
            self.notes.append(Note(table, touch, keys, locked))
            self.keys += len(keys)

    def take(self, statement: UpdateBase | None) -> list[Pending]:
        """What waited for the statement, now that it was executed: itself, and DML in CTEs of this or another."""
        waiting = self.waiting
        own = [pending for pending in waiting if pending.statement is statement or pending.setting is not None]
        self.waiting = [] if len(own) == len(waiting) else [pending for pending in waiting if pending not in own]
        return own

    def refuse(self, error: CaptureError) -> None:
        """A statement that was executed already changed rows that cannot be told."""
        self._refusals.append((len(self._savepoints), error))

    def raise_what_was_refused(self) -> None:
        """Raises the CaptureError of a statement that has not been rolled back since."""
        for _, error in self._refusals:
            raise error

    def see(self, table: CapturedTable, rows: OldRows) -> None:
        """Keeps rows as they are before the statement that changes them."""
        if rows:
            self._seen.append((len(self.notes), table, rows))

    def old_rows(self) -> Mapping[CapturedTable, OldRows]:
        """The rows as they were before the transaction, as far as they were seen before their first touch."""
        found: dict[CapturedTable, dict[Key, str]] = {}
        touched: set[tuple[CapturedTable, Key]] = set()
        looked_at = 0
        for position, table, rows in self._seen:
            for note in self.notes[looked_at:position]:
                touched.update((note.table, key) for key in note.keys)
            looked_at = position
            kept = found.setdefault(table, {})
            for key, row in rows.items():
                if (table, key) not in touched:
                    kept.setdefault(key, row)
        return found

    def drained(self) -> None:
        """All that is noted is in the outbox now. Inside a savepoint the notes stay: they may be needed again."""
        if not self._savepoints:
            self.notes.clear()
            self._seen.clear()
            self.keys = 0

    def savepoint(self, name: str) -> None:
        """A savepoint begins."""
        self._savepoints.append((name, len(self.notes)))

    def rollback_to(self, name: str) -> None:
        """A savepoint is rolled back: it, and all that began after it, leave nothing."""
        for i in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[i][0] == name:
                first = self._savepoints[i][1]
                self.keys -= sum(len(note.keys) for note in self.notes[first:])
                del self.notes[first:]
                self._seen = [seen for seen in self._seen if seen[0] < first]
                del self._savepoints[i:]
                self._refusals = [refusal for refusal in self._refusals if refusal[0] <= i]
                return

    def release(self, name: str) -> None:
        """A savepoint is released: what it noted stays."""
        for i in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[i][0] == name:
                del self._savepoints[i:]
                self._refusals = [(min(depth, i), error) for depth, error in self._refusals]
                return

    def fold(self) -> Folded:
        """What the transaction has touched, each key once: its first touch says whether its row was there before."""
        tables: dict[CapturedTable, dict[Key, int]] = {}
        for note in self.notes:
            keys = tables.setdefault(note.table, {})
            locked = LOCKED if note.locked else 0
            flags = locked if note.touch is Touch.INSERT else locked | EXISTED
            if not keys:
                keys.update(dict.fromkeys(note.keys, flags))
                continue
            for key in note.keys:
                keys[key] = keys[key] | locked if key in keys else flags
        return tables
