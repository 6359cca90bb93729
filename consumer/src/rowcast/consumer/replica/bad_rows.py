"""Set aside what the replica refuses, in the dead letter topic, and everything that follows it.

A refused transaction goes to the topic as a whole, or with the unit ``event`` only the events of the refused rows. Its
rows are *blocked* from then on: a later event of a blocked row follows into the topic, because the event must neither
be overwritten by the letter later nor be applied upon a hole. With the unit ``transaction`` the whole later transaction
follows, and blocks its rows too.

Kafka has acknowledged the events before the replica's transaction records them with the positions. A crash between the
two writes them to the topic again, and the record names the last copy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from operator import attrgetter

from sqlalchemy.engine import Connection

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.dead_letter import DeadLetterTopic, RowKey, RowMap, SetAside, UnreadEvent, plain_row_key
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.replica.applier import Applier
from rowcast.consumer.replica.letter_events import change_event, unread_event
from rowcast.consumer.replica.positions import Positions
from rowcast.consumer.replica.refusals import RefusedError, StatementRefusedError

_log = logging.getLogger("rowcast.worker")

ApplyRun = Callable[[Run], None]
Refused = Mapping[RowKey, RefusedError]


class BadRows:
    """Apply runs of one replica without the transactions or events that go to the dead letter topic.

    ``sets_aside``: False if a refusal stops the worker. Later events of blocked rows follow all the same.
    ``whole``: the unit is the transaction. While the replica loads by key, the unit is the event.
    """

    def __init__(
        self, applier: Applier, positions: Positions, *, topic: DeadLetterTopic | None, sets_aside: bool, whole: bool
    ) -> None:
        self._applier = applier
        self._positions = positions
        self._topic = topic
        self._sets_aside = sets_aside
        self._whole = whole
        self._blocked: RowMap[bool] | None = None
        """The rows blocked by recorded letters, or None if they have not been read."""

    def forget(self) -> None:
        """Read the blocked rows again before the next run, because a transaction may or may not have been committed."""
        self._blocked = None

    def apply(self, connection: Connection, run: Run) -> None:
        """Apply a run. Raise the error of the applier if nothing can be set aside."""
        self._apply(connection, run, partial(self._applier.apply, connection), complete=True)

    def apply_by_key(self, connection: Connection, run: Run, apply: ApplyRun) -> None:
        """Apply a run read by key. ``apply`` holds conflicting changes back."""
        self._apply(connection, run, apply, complete=False)

    def may_set_aside(self, error: RefusedError) -> bool:
        """Return whether the error is about rows that go to the dead letter topic."""
        return self._sets_aside and not isinstance(error, StatementRefusedError)

    def without_refused_values(self, connection: Connection, transaction: Transaction) -> Transaction:
        """Set aside the changes read by key with refused values. Return the transaction without these changes."""
        refused = self._refused_rows(connection, transaction, complete=False)
        if not refused:
            return transaction
        rest = self._set_aside(transaction, _of_rows(list(transaction.changes), refused.keys()), refused)
        # The changes held back are applied later.
        self._note_applied([rest])
        return rest

    def _apply(self, connection: Connection, run: Run, apply: ApplyRun, *, complete: bool) -> None:
        if self._blocked is None:
            with connection.begin():
                self._blocked = _row_map(self._positions.blocked_keys(connection))
        rest = self._without_followers(run.transactions)
        while True:
            try:
                apply(Run(rest))
            except RefusedError as error:
                if not self.may_set_aside(error):
                    raise
                rest = self._without_refused(connection, rest, error, complete=complete)
            else:
                self._note_applied(rest)
                return

    def _without_refused(
        self, connection: Connection, transactions: Sequence[Transaction], error: RefusedError, *, complete: bool
    ) -> list[Transaction]:
        """Return the transactions left to apply. Raise ``error`` if nothing is refused."""
        for place, transaction in enumerate(transactions):
            if transaction is error.transaction:
                self._note_applied(transactions[:place])
                refused = self._refuse(connection, transaction, error)
                return self._without_followers([refused, *transactions[place + 1 :]])
        if complete:
            raise error
        rest = [self.without_refused_values(connection, transaction) for transaction in transactions]
        if all(one is another for one, another in zip(rest, transactions, strict=True)):
            raise error
        return self._without_followers(rest)

    def _refuse(self, connection: Connection, transaction: Transaction, error: RefusedError) -> Transaction:
        """Set the refused changes aside, or all if none is refused by itself."""
        is_whole = self._is_whole(transaction)
        if is_whole and isinstance(transaction.changes, SpilledChanges):
            return self._set_aside(transaction, transaction.changes, {}, error)
        changes = list(transaction.changes)
        refused = self._refused_rows(connection, transaction, complete=True)
        chosen = changes if is_whole or not refused else _of_rows(changes, refused.keys())
        return self._set_aside(transaction, chosen, refused, error)

    def _refused_rows(self, connection: Connection, transaction: Transaction, *, complete: bool) -> Refused:
        found = self._applier.find_refused(connection, list(transaction.changes), complete=complete)
        return {_row_of(change): refusal for change, refusal in found}

    def _is_whole(self, transaction: Transaction) -> bool:
        return self._whole and not transaction.by_key

    def _without_followers(self, transactions: Iterable[Transaction]) -> list[Transaction]:
        """Set aside what cannot be read, and the changes of rows that an earlier letter blocks."""
        assert self._blocked is not None
        transactions = list(transactions)
        if not self._blocked and not any(map(_concerns_letters, transactions)):
            return transactions  # The usual run.
        # A copy of all blocked rows for each run would take long when many rows are blocked.
        blocked_by_run: RowMap[bool] = RowMap()
        rest = []
        for transaction in transactions:
            rest.append(self._without_blocked(self._without_unread(transaction), blocked_by_run))
            _add_rows(blocked_by_run, rest[-1])
        return rest

    def _note_applied(self, transactions: Iterable[Transaction]) -> None:
        """Take note of letters that the replica has recorded."""
        assert self._blocked is not None
        for transaction in filter(_letters_of, transactions):
            _add_rows(self._blocked, transaction)

    def _without_unread(self, transaction: Transaction) -> Transaction:
        if not transaction.unread:
            return transaction
        goes_whole = self._is_whole(transaction) and transaction.id is not None
        return self._set_aside(transaction, transaction.changes if goes_whole else (), {}, unread=transaction.unread)

    def _without_blocked(self, transaction: Transaction, blocked_by_run: RowMap[bool]) -> Transaction:
        assert self._blocked is not None
        _add_rows(blocked_by_run, transaction)
        blocked = [known for known in (self._blocked, blocked_by_run) if known]
        if not blocked or not len(transaction.changes):
            return transaction
        rows = {row for row in map(_row_of, transaction.changes) if any(known.find(row) for known in blocked)}
        if not rows:
            return transaction
        changes = transaction.changes
        chosen = changes if self._is_whole(transaction) else _of_rows(list(changes), rows)
        # The other halves of changed primary keys are blocked now too.
        return self._without_blocked(self._set_aside(transaction, chosen, {}, follows=True), blocked_by_run)

    def _set_aside(
        self,
        transaction: Transaction,
        chosen: Iterable[Change],
        refused: Refused,
        error: RefusedError | None = None,
        *,
        unread: Sequence[UnreadEvent] = (),
        follows: bool = False,
    ) -> Transaction:
        """Write changes to the dead letter topic. Return the transaction without them.

        ``refused``: the error of each refused row. ``error``: the reason for all changes, if no row is refused by
        itself. ``follows``: the changes follow earlier letters.
        """
        assert self._topic is not None, "only a worker applies runs"
        letter = transaction.id if self._is_whole(transaction) else None
        events = [unread_event(one, letter) for one in unread]
        rows = set()
        for change in chosen:
            row = _row_of(change)
            rows.add(row)
            cause = refused.get(row) or (None if refused else error)
            events.append(change_event(change, row, letter, cause, follows=follows))
        letters = self._topic.write(events)
        _report(transaction, events)
        kept = _without(transaction, rows) if rows else transaction.changes
        return replace(transaction, changes=kept, unread=(), letters=[*transaction.letters, *letters])


def _of_rows(changes: Sequence[Change], rows: AbstractSet[RowKey]) -> list[Change]:
    """Return the changes of the rows, and each possible counterpart in a changed primary key.

    A changed primary key is a delete and a create in the same table and transaction.
    """
    known = _row_map(rows)
    chosen = [known.find(_row_of(change)) is not None for change in changes]
    halves: dict[tuple[str, str | None], set[str]] = {}
    for change in changes:
        halves.setdefault((change.layout.table, change.transaction), set()).add(_half(change))
    places = {(c.layout.table, c.transaction) for c, is_chosen in zip(changes, chosen, strict=True)
              if is_chosen and _half(c) and c.transaction is not None}  # fmt: skip
    pairs = {place for place in places if {"delete", "create"} <= halves[place]}
    paired = _row_map({_row_of(c) for c in changes if (c.layout.table, c.transaction) in pairs and _half(c)})
    return [c for c, is_chosen in zip(changes, chosen, strict=True) if is_chosen or paired.find(_row_of(c))]


_letters_of = attrgetter("letters")


def _concerns_letters(transaction: Transaction) -> bool:
    return bool(transaction.unread or transaction.letters)


def _half(change: Change) -> str:
    return "delete" if change.after is None else "create" if change.creates else ""


def _row_of(change: Change) -> RowKey:
    return plain_row_key(change.layout.table, change.key)


def _row_map(rows: AbstractSet[RowKey]) -> RowMap[bool]:
    return RowMap((row, True) for row in rows)


def _add_rows(rows: RowMap[bool], transaction: Transaction) -> None:
    """Add the rows of a transaction's letters."""
    for letter in transaction.letters:
        if letter.event.table is not None and letter.event.key is not None:
            rows.add((letter.event.table, letter.event.key), True)


def _without(transaction: Transaction, rows: AbstractSet[RowKey]) -> list[Change] | SpilledChanges:
    kept = (change for change in transaction.changes if _row_of(change) not in rows)
    return SpilledChanges(transaction.id, kept) if isinstance(transaction.changes, SpilledChanges) else list(kept)


def _report(transaction: Transaction, events: Sequence[SetAside]) -> None:
    cause = next((event for event in events if event.is_cause), None)
    first = cause or events[0]
    what = first.target if first.letter == first.target else f"transaction {first.letter} (lsn {transaction.lsn})"
    text = f"{what}, {len(events)} events: {first.reason}"
    if cause is None:
        _log.warning("into the dead letter topic: %s", text)
    else:
        _log.error("the worker goes on without what was refused, which is in the dead letter topic: %s", text)
