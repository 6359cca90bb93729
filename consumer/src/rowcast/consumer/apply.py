"""Writes runs of transactions to the replica: folded and set-wise, and more patiently where a constraint stands in
the way.

The end of every source transaction is a state that the primary was in, so the end of a run satisfies every constraint.
Only the way there may not: a unique value that changes hands, a row that goes while another still refers to it. So a
run that meets a constraint is halved until the halves pass. What is left of one transaction is tried in other orders,
and at last *at once*: foreign keys are looked at when it ends, and rows whose unique values change hands are taken away
before they are written anew.

Every piece is a replica transaction of its own, which holds rows and positions: what was applied stays applied when a
later one fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.consumer.changes import Change
from rowcast.consumer.dialects import Fault, ReplicaDialect
from rowcast.consumer.fold import TableChanges, fold, grouped, parents_first
from rowcast.consumer.positions import Applied, Positions
from rowcast.consumer.tables import ReplicaTables
from rowcast.consumer.transactions import Run, Transaction
from rowcast.shared.errors import DataError, RetriableError

_Write = Callable[[Connection], None]


class ConflictError(DataError):
    """A constraint stands in the way of these changes, in every order."""


class Applier:
    """Applies through one connection, as one worker."""

    def __init__(self, replica: ReplicaDialect, tables: ReplicaTables, positions: Positions) -> None:
        self._replica = replica
        self._tables = tables
        self._positions = positions
        self._order: list[str] = []
        self._ordered = 0
        self.lsn = 0
        """The greatest applied: by key, later runs may have smaller ones."""

    def apply(self, connection: Connection, run: Run, *, complete: bool = True) -> None:
        """Applies all of the run, or as much as there is before the first transaction that cannot be applied.

        ``complete`` is False while a replica loads by key: a conflict is then no reason to look further, since what
        resolves it may not have been read yet.

        Raises ConflictError, or DataError for a value that the replica does not take, each naming the event;
        RetriableError for a passing fault; FencedError if another worker has taken over.
        """
        try:
            self._write_folded(connection, run)
        except (ConflictError, _ValueRefusedError) as error:
            if isinstance(error, ConflictError) and not complete:
                raise
            if len(run.transactions) == 1:
                self._apply_patiently(connection, run.transactions[0], error)
                return
            middle = len(run.transactions) // 2
            self.apply(connection, Run(run.transactions[:middle]), complete=complete)
            self.apply(connection, Run(run.transactions[middle:]), complete=complete)

    def _write_folded(self, connection: Connection, run: Run) -> None:
        changes = (change for transaction in run.transactions for change in transaction.changes)
        groups = grouped(fold(changes), self._parents_first())
        with self._replica_transaction(connection, run):
            self._delete(connection, groups)
            self._upsert(connection, groups)

    def _apply_patiently(self, connection: Connection, transaction: Transaction, first: DataError) -> None:
        run = Run([transaction])
        if isinstance(first, ConflictError):
            told: DataError = first
            for write in (self._upserts_first, self._in_order, self._at_once):
                try:
                    with self._replica_transaction(connection, run):
                        write(connection, transaction)
                except (ConflictError, _ValueRefusedError) as error:
                    # That way the error names its event.
                    told = error if write == self._in_order else told
                else:
                    return
            raise ConflictError(f"transaction {transaction.id} (lsn {transaction.lsn}): {told}") from told
        # Which of the events is it?
        with self._replica_transaction(connection, run):
            self._in_order(connection, transaction)

    def _upserts_first(self, connection: Connection, transaction: Transaction) -> None:
        groups = grouped(fold(transaction.changes), self._parents_first())
        self._upsert(connection, groups)
        self._delete(connection, groups)

    def _in_order(self, connection: Connection, transaction: Transaction) -> None:
        """As the events came, one by one, so that an error names its event."""
        for change in sorted(transaction.changes, key=lambda c: c.lsn):
            with self._explained(change):
                table = self._tables.table(change.layout.table)
                if change.after is None:
                    self._replica.delete(connection, table, change.layout, [change.key])
                else:
                    self._replica.upsert(connection, table, change.layout, [change.after])

    def _at_once(self, connection: Connection, transaction: Transaction) -> None:
        groups = grouped(fold(transaction.changes), self._parents_first())
        with self._foreign_keys_suspended(connection):
            self._delete(connection, groups)
            for group in groups:
                table = self._tables.table(group.table)
                if table.other_unique:
                    for layout in group.upserts:
                        self._tables.require_replaceable(connection, layout)
                        keys = [c.key for c in transaction.changes if c.layout is layout and c.after is not None]
                        self._replica.delete(connection, table, layout, list(dict.fromkeys(keys)))
            self._upsert(connection, groups)

    def _delete(self, connection: Connection, groups: Sequence[TableChanges]) -> None:
        for group in reversed(groups):
            for layout, keys in group.deletes.items():
                self._replica.delete(connection, self._tables.table(group.table), layout, keys)

    def _upsert(self, connection: Connection, groups: Sequence[TableChanges]) -> None:
        for group in groups:
            for layout, images in group.upserts.items():
                self._replica.upsert(connection, self._tables.table(group.table), layout, images)

    def _parents_first(self) -> list[str]:
        shapes = self._tables.shapes()
        if len(shapes) != self._ordered:
            self._order, self._ordered = parents_first(shapes), len(shapes)
        return self._order

    @contextmanager
    def _foreign_keys_suspended(self, connection: Connection) -> Iterator[None]:
        self._replica.suspend_foreign_keys(connection)
        try:
            yield
        finally:
            if not connection.invalidated:
                self._replica.resume_foreign_keys(connection)

    @contextmanager
    def _replica_transaction(self, connection: Connection, run: Run) -> Iterator[None]:
        """Rows and positions together, or nothing. Turns the driver's errors into this module's."""
        last = run.last
        applied = Applied(last.lsn, last.id, last.ts_ms) if last.lsn > self.lsn else None
        try:
            with connection.begin():
                # First, so that a worker that was fenced writes nothing, and waits for nobody.
                self._positions.hold(connection, applied)
                self._replica.begin(connection)
                yield
                self._positions.advance(connection, run.reach())
        except exc.DBAPIError as error:
            raise self._told(error) from error
        except ValueError as error:
            raise _ValueRefusedError(str(error)) from error
        self.lsn = max(self.lsn, last.lsn)

    @contextmanager
    def _explained(self, change: Change) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            told = self._told(error)
            if isinstance(told, DataError):
                raise type(told)(f"{change.where()}: {told}") from error
            raise told from error
        except ValueError as error:
            raise _ValueRefusedError(f"{change.where()}: {error}") from error

    def _told(self, error: exc.DBAPIError) -> DataError | RetriableError:
        reason = self._replica.reason(error)
        match self._replica.fault(error):
            case Fault.LOST | Fault.PASSING:
                return RetriableError(f"the replica did not apply a batch: {reason}")
            case Fault.CONFLICT:
                return ConflictError(f"a constraint of the replica stands in the way: {reason}")
            case Fault.DATA:
                return _ValueRefusedError(f"the replica does not take a value: {reason}")


class _ValueRefusedError(DataError):
    """A value that the table does not take, or the engine cannot hold."""
