"""Refuse a change that could not share a transaction with the outbox row."""

from __future__ import annotations

from weakref import WeakSet

from sqlalchemy.engine import Connection

from rowcast.producer.capture.notes.open_transactions import OpenTransactions
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from rowcast.producer.capture.transaction_ends import TransactionEnds
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.raw_execution import is_autocommit
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.errors import CaptureError

IN_AUTOCOMMIT = "so a change and its outbox row could not be in one transaction"
AUTOCOMMIT_HINT = (
    "use a transaction (autocommit may be in connect_args or in the isolation level), or let triggers capture the "
    "tables, which work in AUTOCOMMIT too"
)


class TransactionCheck:
    """Check the transactions of an engine, once for each transaction, and its tables, once for each table."""

    def __init__(self, transactions: OpenTransactions, ends: TransactionEnds) -> None:
        self._transactions = transactions
        self._ends = ends
        self._with_transactions: WeakSet[CapturedTable] = WeakSet()

    def check(self, connection: Connection, table: CapturedTable, notes: TransactionNotes) -> None:
        """Raise CaptureError if a change of the table and the outbox row could not share a transaction."""
        if not notes.is_checked:
            self.check_transaction(connection, table, notes)
        self.check_table(connection, table)

    def check_transaction(self, connection: Connection, table: CapturedTable, notes: TransactionNotes) -> None:
        """Check the transaction before its first statement on a captured table.

        Raises CaptureError if the connection commits each statement by itself. Each statement calls the method unless
        ``notes.is_checked``.
        """
        if notes.may_have_ended:
            self._ends.settle(connection, notes)
        if is_autocommit(connection):
            raise CaptureError(
                f"{table.full_name} is captured, but this connection is in AUTOCOMMIT, {IN_AUTOCOMMIT}. "
                f"To correct this, {AUTOCOMMIT_HINT}: rowcast triggers install {table.full_name} "
                "(docs/how-to/triggers.md)."
            )
        self._transactions.continue_drained(connection, notes)
        notes.is_checked = True

    def check_table(self, connection: Connection, table: CapturedTable) -> None:
        """Raise CaptureError if the storage engine of the table has no transactions.

        The fast path does not call the method, because each of its statements has been on the full path before.
        """
        if table in self._with_transactions:
            return
        dialect, shape = capture_dialect(connection.dialect), table.shape
        storage = dialect.storage_without_transactions(connection, shape.schema, shape.name)
        if storage is not None:
            raise CaptureError(
                f"{table.full_name} is captured, but its storage engine {storage} has no transactions, "
                f"{IN_AUTOCOMMIT}. {storage_hint(table.full_name)}."
            )
        self._with_transactions.add(table)


def storage_hint(table: str) -> str:
    """Return the next step for a table whose storage engine has no transactions."""
    return f"Convert it: ALTER TABLE {table} ENGINE = InnoDB. Or leave it out with Table(info={{'rowcast': False}})"
