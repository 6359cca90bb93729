"""Write runs of transactions to the replica.

The fast path folds a run and applies the result in set-wise statements. The end of every source transaction is a state
of the primary, therefore the end of a run satisfies every constraint. Only the way there may violate constraints: a
unique value may move between rows, or a row may be deleted before a referring row.

After a violation, the run is halved until the halves pass. A single failing transaction is tried in further orders. The
last attempt suspends constraints: foreign keys are checked at the end of the transaction, and rows with moving unique
values are deleted before the write. The full path, event after event, names the failing event.

Each part of a run is a replica transaction with rows and positions. If a later part fails, the earlier parts stay
applied. A transaction too large for memory is a single replica transaction too, and is written in pieces.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

from sqlalchemy.engine import Connection

from rowcast.consumer.events.change import Change, lsn_of
from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.replica.dialects import OrphanError, ReplicaDialect, ReplicaTable, TouchedKeys
from rowcast.consumer.replica.fold import TableChanges, fold, group_by_table
from rowcast.consumer.replica.pieces import pieces, runs_in_order
from rowcast.consumer.replica.positions import LastApplied, Positions
from rowcast.consumer.replica.refusals import (
    ConflictError,
    RefusedError,
    ValueRefusedError,
    refusals_of,
    translated_errors,
)
from rowcast.consumer.replica.refused_changes import find_refused
from rowcast.consumer.replica.tables import NotReplaceableError, ReplicaTables
from rowcast.shared.errors import DataError

_log = logging.getLogger("rowcast.worker")

_PIECE_EVENTS = 10_000


class Applier:
    """Apply runs through a connection, on behalf of a worker.

    ``between_pieces`` is called between the pieces of a large transaction. If it raises, the transaction rolls back.
    """

    def __init__(
        self,
        replica: ReplicaDialect,
        tables: ReplicaTables,
        positions: Positions,
        between_pieces: Callable[[], None] = lambda: None,
    ) -> None:
        self._replica = replica
        self._tables = tables
        self._positions = positions
        self._between_pieces = between_pieces
        self.lsn = 0
        """The greatest lsn applied. While the replica loads by key, a later run may have a smaller lsn."""

    def apply(self, connection: Connection, run: Run, *, complete: bool = True) -> None:
        """Apply the whole run, or everything before the first transaction with an error.

        ``complete``: False while the replica loads by key. A conflict then raises at once, because the changes to
        resolve the conflict may not have been read yet. Raise ConflictError, or DataError for a refused value. Both
        name the event. Raise RetriableError for a transient error, and FencedError if another worker has taken over.
        """
        if any(isinstance(t.changes, SpilledChanges) for t in run.transactions):
            for transaction in run.transactions:
                with refusals_of(transaction):
                    self._apply_any_size(connection, transaction, complete)
            return
        try:
            self.apply_folded(connection, run)
        except (ConflictError, ValueRefusedError) as error:
            if isinstance(error, ConflictError) and not complete:
                raise
            if len(run.transactions) == 1:
                with refusals_of(run.transactions[0]):
                    self._apply_single(connection, run.transactions[0], error)
                return
            middle = len(run.transactions) // 2
            self.apply(connection, Run(run.transactions[:middle]), complete=complete)
            self.apply(connection, Run(run.transactions[middle:]), complete=complete)

    def apply_folded(self, connection: Connection, run: Run) -> None:
        """Apply a run in set-wise statements, each key once. Fast path of ``apply_in_order``."""
        with self._replica_transaction(connection, run):
            self._write_folded(connection, chain.from_iterable(t.changes for t in run.transactions))

    def apply_in_order(self, connection: Connection, transaction: Transaction) -> None:
        """Apply a transaction's changes separately and in order.

        An error names the event. Full path of ``apply_folded``.
        """
        with self._replica_transaction(connection, Run([transaction])):
            self._write_in_order(connection, transaction)

    def find_refused(
        self, connection: Connection, changes: Sequence[Change], *, complete: bool = True
    ) -> list[tuple[Change, RefusedError]]:
        """Return the last change of each row that the replica refuses, with the error. Write nothing.

        ``complete``: as in ``apply``. If not, only values are refused. Foreign keys are checked at once, not at the end
        of the transaction.
        """

        def write(part: Sequence[Change]) -> None:
            with translated_errors(self._replica):
                self._write_folded(connection, part)

        with connection.begin():
            self._positions.compare(connection)
            found = find_refused(connection, changes, self.table_order(), write)
        return [(change, error) for change, error in found if complete or isinstance(error, ValueRefusedError)]

    def _apply_single(self, connection: Connection, transaction: Transaction, first_error: DataError) -> None:
        """Apply a transaction after the fast path has failed."""
        if not isinstance(first_error, ConflictError):
            # Find out which event has the value.
            self.apply_in_order(connection, transaction)
            return
        attempts: tuple[Callable[[Connection, Transaction], None], ...] = (
            self._write_upserts_first,
            self._write_in_order,
            self._write_with_suspended_constraints,
        )
        if any(change.is_truncate for change in transaction.changes):
            # The other orders need to know every deleted key.
            attempts = (self._write_in_order,)
        error_to_raise: DataError = first_error
        for write in attempts:
            try:
                with self._replica_transaction(connection, Run([transaction])):
                    write(connection, transaction)
            except NotReplaceableError as error:
                error_to_raise = error
            except (ConflictError, ValueRefusedError) as error:
                # The error of the writing in order names the event. An orphan is there at the end of every order.
                if write == self._write_in_order or isinstance(error.__cause__, OrphanError):
                    error_to_raise = error
            else:
                return
        conflict = ConflictError(
            f"transaction {transaction.id} (lsn {transaction.lsn}): {error_to_raise}. "
            "Look for constraints and rows on the replica that the primary does not have."
        )
        conflict.skip = None if transaction.by_key else transaction.id
        raise conflict from error_to_raise

    def _apply_any_size(self, connection: Connection, transaction: Transaction, complete: bool) -> None:
        changes = transaction.changes
        if not isinstance(changes, SpilledChanges):
            self.apply(connection, Run([transaction]), complete=complete)
            return
        try:
            self._apply_in_pieces(connection, transaction, changes)
            return
        except ConflictError as error:
            if not complete:
                raise
            first_error = error
        try:
            self._apply_in_runs(connection, transaction, changes)
        except ConflictError as error:
            _log.warning(
                "transaction %s (lsn %d) has %d events and cannot be applied in pieces: %s. It is read into memory",
                transaction.id, transaction.lsn, len(changes), error,
            )  # fmt: skip
            self._apply_single(connection, replace(transaction, changes=list(changes)), first_error)

    def _apply_in_pieces(self, connection: Connection, transaction: Transaction, changes: SpilledChanges) -> None:
        """Apply a large transaction piece by piece, in one replica transaction.

        Raise ConflictError if a piece violates a constraint, because the rest of the transaction may be needed.
        """
        written = 0
        try:
            with self._replica_transaction(connection, Run([transaction])):
                for piece in pieces(changes, self.table_order(), _PIECE_EVENTS):
                    self._between_pieces()
                    self._write_folded(connection, piece)
                    written += 1
        except ValueRefusedError:
            # Find the event with the value. The event is in the piece after the written pieces.
            with self._replica_transaction(connection, Run([transaction])):
                for n, piece in enumerate(pieces(changes, self.table_order(), _PIECE_EVENTS)):
                    self._between_pieces()
                    write = self._write_changes_in_order if n == written else self._write_folded
                    write(connection, piece)

    def _apply_in_runs(self, connection: Connection, transaction: Transaction, changes: SpilledChanges) -> None:
        """Apply a large transaction in the original order, in a single replica transaction.

        The order satisfies the constraints checked by the primary at each statement. A run is a statement.
        """
        written = 0
        try:
            with self._replica_transaction(connection, Run([transaction])):
                for run in runs_in_order(changes, _PIECE_EVENTS):
                    if written >= _PIECE_EVENTS:
                        self._between_pieces()
                        written = 0
                    self._write_folded(connection, run)
                    written += len(run)
        except ValueRefusedError:
            # Find out which event has the value.
            self.apply_in_order(connection, transaction)

    def _write_folded(self, connection: Connection, changes: Iterable[Change]) -> None:
        groups = group_by_table(fold(changes), self.table_order())
        self._delete(connection, groups)
        self._upsert(connection, groups)

    def _write_upserts_first(self, connection: Connection, transaction: Transaction) -> None:
        groups = group_by_table(fold(transaction.changes), self.table_order())
        self._upsert(connection, groups)
        self._delete(connection, groups)

    def _write_in_order(self, connection: Connection, transaction: Transaction) -> None:
        self._write_changes_in_order(connection, transaction.changes)

    def _write_changes_in_order(self, connection: Connection, changes: Iterable[Change]) -> None:
        # A transaction in a file comes in this order, and does not fit into memory.
        for change in changes if isinstance(changes, SpilledChanges) else sorted(changes, key=lsn_of):
            with translated_errors(self._replica, change):
                table = self._tables.table(change.layout.table)
                if change.is_truncate:
                    self._replica.empty(connection, table)
                elif change.after is None:
                    self._replica.delete(connection, table, change.layout, [change.key])
                else:
                    self._write(connection, table, change.layout, [change.after])

    def _write_with_suspended_constraints(self, connection: Connection, transaction: Transaction) -> None:
        groups = group_by_table(fold(transaction.changes), self.table_order())
        with self._replica.foreign_keys_at_the_end(connection, self._touched(transaction)):
            self._delete(connection, groups)
            for group in groups:
                table = self._tables.table(group.table)
                if not table.other_unique:
                    continue
                for layout in group.upserts:
                    self._tables.require_replaceable(connection, layout)
                    keys = [c.key for c in transaction.changes if c.layout is layout and c.after is not None]
                    self._replica.delete(connection, table, layout, list(dict.fromkeys(keys)))
            self._upsert(connection, groups)

    def _touched(self, transaction: Transaction) -> list[TouchedKeys]:
        keys: dict[RowLayout, dict[bytes, None]] = {}
        for change in transaction.changes:
            keys.setdefault(change.layout, {})[change.key] = None
        return [TouchedKeys(self._tables.table(layout.table), layout, list(found)) for layout, found in keys.items()]

    def _delete(self, connection: Connection, groups: Sequence[TableChanges]) -> None:
        for group in reversed(groups):
            if group.is_emptied:
                self._replica.empty(connection, self._tables.table(group.table))
            for layout, keys in group.deletes.items():
                self._replica.delete(connection, self._tables.table(group.table), layout, keys)

    def _upsert(self, connection: Connection, groups: Sequence[TableChanges]) -> None:
        for group in groups:
            for layout, images in group.upserts.items():
                table, create = self._tables.table(group.table), group.create[layout]
                self._write(connection, table, layout, images, create)

    def _write(
        self, connection: Connection, table: ReplicaTable, layout: RowLayout, images: Sequence[bytes],
        create: Sequence[bool] = (),
    ) -> None:  # fmt: skip
        renamed = self._tables.renamed
        written, renamed_images = renamed.layout(layout), renamed.images(layout, images)
        if layout.keeps_others:
            self._replica.update(connection, table, written, renamed_images)
        else:
            self._replica.upsert(connection, table, written, renamed_images, create)

    def table_order(self) -> list[str]:
        """Return the names of the tables, parents first."""
        return self._tables.order()

    @contextmanager
    def _replica_transaction(self, connection: Connection, run: Run) -> Iterator[None]:
        """Commit rows and positions together, or neither. Turn the driver's errors into errors of this module."""
        last = run.last
        applied = LastApplied(last.lsn, last.id, last.ts_ms) if last.lsn > self.lsn else None
        with translated_errors(self._replica), self._positions.applying(connection, run, applied):
            yield
            for transaction in filter(_has_letters, run.transactions):
                self._positions.write_letters(connection, transaction.letters, transaction.settled)
        self.lsn = max(self.lsn, last.lsn)


def _has_letters(transaction: Transaction) -> bool:
    return bool(transaction.letters or transaction.settled)
