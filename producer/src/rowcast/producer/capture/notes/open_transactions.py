"""Find the notes of the open transactions on the connections of an engine."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

from sqlalchemy.engine import Connection, RootTransaction

from rowcast.producer.capture.notes.transaction_notes import TransactionNotes


class _Drained(NamedTuple):
    """Name a transaction after the last drain of its notes. The drain precedes the other listeners of the commit."""

    transaction: RootTransaction | None
    transaction_id: str


class OpenTransactions:
    """Hold the notes of each connection's open transaction, for the listeners of an engine.

    The notes are an attribute of the connection, and live as long as the connection. Every statement needs the notes,
    and a WeakKeyDictionary would be slower because of its lock and its references.
    """

    _numbers = count()

    def __init__(self) -> None:
        # Each instance has a separate attribute, because an engine may have listeners of several captures.
        self.attribute = f"_rowcast_notes_{next(self._numbers)}"
        """The name of the attribute, for listeners of every statement, which save a call."""

    def get(self, connection: Connection) -> TransactionNotes | None:
        """Return the notes of the open transaction, or None if nothing was noted yet."""
        return connection.__dict__.get(self.attribute)

    def get_or_create(self, connection: Connection) -> TransactionNotes:
        """Return the notes of the open transaction. Create empty notes at the first call."""
        notes = connection.__dict__.get(self.attribute)
        if notes is None:
            notes = connection.__dict__[self.attribute] = TransactionNotes()
        return notes

    def discard(self, connection: Connection) -> None:
        """Discard the notes, because the transaction has ended."""
        connection.__dict__.pop(self.attribute, None)

    def discard_drained(self, connection: Connection) -> None:
        """Discard the notes, although other listeners may execute more statements before COMMIT."""
        notes = self.get_or_create(connection)
        drained = _Drained(connection.get_transaction(), notes.transaction_id)
        connection.__dict__[self.attribute + "_drained"] = drained
        self.discard(connection)

    def continue_drained(self, connection: Connection, notes: TransactionNotes) -> None:
        """Mark new notes of a drained and still open transaction as late."""
        drained: _Drained | None = connection.__dict__.pop(self.attribute + "_drained", None)
        if drained is not None and drained.transaction is connection.get_transaction():
            connection.__dict__[self.attribute + "_drained"] = drained
            notes.continue_drained(drained.transaction_id)
