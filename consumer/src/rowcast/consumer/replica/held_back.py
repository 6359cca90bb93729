"""Hold back changes that violate a constraint while the replica loads, until later changes resolve the conflict.

Only the user's own tables have constraints while a replica loads. By key, a row may come before the row that it refers
to. The changes of each topic are held back by themselves, so that other tables load on. A topic that conflicts is tried
again only when its held changes are twice as many, or at the end of the load. A table with foreign keys also waits for
rows of other tables. Therefore the number of rows sent to the database grows with the number of events, however long a
parent is awaited. From 20,000 changes or 16 MiB on, the held changes of a topic are in temporary files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.dead_letter import LetterEvent
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.spilled_changes import SpilledChanges
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.replica.refusals import ConflictError

_GROWTH = 2
# A table with foreign keys may have another conflict, which the table's own rows resolve.
_GROWTH_ALONE = 16

# Held changes of a topic in memory.
_MOST_EVENTS = 20_000
_MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _HeldTopic:
    """The held changes of a topic.

    ``tried``: the number of changes when the topic was last tried. ``others_applied``: other topics have been applied
    since then.
    """

    transactions: Sequence[Transaction]
    event_count: int = 0
    tried: int = 0
    others_applied: bool = False

    def extended(self, transactions: Sequence[Transaction], *, others_applied: bool) -> _HeldTopic:
        """Return a copy with further changes."""
        count = self.event_count + sum(len(transaction.changes) for transaction in transactions)
        others_applied |= self.others_applied
        return _HeldTopic(_spilled([*self.transactions, *transactions]), count, self.tried, others_applied)

    def refused(self) -> _HeldTopic:
        """Return a copy that has just been tried."""
        return _HeldTopic(self.transactions, self.event_count, self.event_count)

    @property
    def is_due(self) -> bool:
        """Return whether later changes may have resolved the conflict."""
        if self.event_count < self.tried * _GROWTH:
            return False
        if self.others_applied or self.event_count >= self.tried * _GROWTH_ALONE:
            return True
        return not any(layout.shape.foreign_keys for layout in self.transactions[0].layouts())


class HeldBack:
    """The changes held back of one replica."""

    def __init__(self) -> None:
        self._topics: dict[str, _HeldTopic] = {}

    def __bool__(self) -> bool:
        """Return whether changes are held back."""
        return bool(self._topics)

    def apply(self, run: Run, apply: Callable[[Run], None], table_order: Callable[[], Sequence[str]]) -> None:
        """Apply a run read by key, except for changes in conflict.

        ``apply``: apply a run at once, or raise ConflictError. ``table_order``: the names of the tables, parents first.
        After any other error, the run can be applied again: nothing is held twice.
        """
        if not self._topics and _succeeds(apply, run.transactions):
            return
        pieces = _split_by_topic(run.transactions, table_order())
        held: dict[str, _HeldTopic] = dict(self._topics)
        free = {topic: piece for topic, piece in pieces.items() if topic not in held}
        if not self._topics or not _succeeds(apply, [t for piece in free.values() for t in piece]):
            for topic, piece in free.items():
                if not _succeeds(apply, piece):
                    held[topic] = _HeldTopic(()).extended(piece, others_applied=False).refused()
        others_applied = any(topic not in held and t.changes for topic, piece in free.items() for t in piece)
        for topic, waiting in self._topics.items():
            extended = waiting.extended(pieces.get(topic, ()), others_applied=others_applied)
            if not extended.is_due:
                held[topic] = extended
            elif _succeeds(apply, extended.transactions):
                del held[topic]
                others_applied = True
            else:
                held[topic] = extended.refused()
        self._topics = held

    def replace(self, replacement: Callable[[Transaction], Transaction]) -> None:
        """Replace each held transaction by another with a part of its changes."""
        for topic, held in self._topics.items():
            transactions = [replacement(transaction) for transaction in held.transactions]
            self._topics[topic] = _HeldTopic(()).extended(transactions, others_applied=True)

    def merged(self) -> Transaction:
        """Return one transaction of all held changes, complete at the end of the load."""
        return merge(self._transactions())

    def before(self, run: Run) -> Run:
        """Return the held changes, topic after topic, and the run after them."""
        return Run(_in_one_if_spilled([*self._transactions(), *run.transactions]))

    def _transactions(self) -> list[Transaction]:
        return [transaction for held in self._topics.values() for transaction in held.transactions]

    def clear(self) -> None:
        """Forget the held changes, because they were applied or will be read again."""
        self._topics.clear()


def merge(transactions: Sequence[Transaction]) -> Transaction:
    """Return one transaction of all changes. It satisfies the constraints violated by parts."""
    last = max(transactions, key=lambda t: t.lsn)
    all_changes = chain.from_iterable(transaction.changes for transaction in transactions)
    is_large = _is_spilled(transactions) or _is_large(transactions)
    changes = SpilledChanges(last.id, all_changes) if is_large else list(all_changes)
    merged = Transaction(last.id, last.lsn, last.ts_ms, changes, by_key=True)
    for transaction in transactions:
        merged.positions |= transaction.positions
        merged.letters = [*merged.letters, *transaction.letters]
    return merged


def _spilled(transactions: Sequence[Transaction]) -> Sequence[Transaction]:
    """Move many changes in memory to a file. A file is merged with the file before when at least as large.

    Therefore the files are few, and each change is copied a few times.
    """
    files = [transaction for transaction in transactions if isinstance(transaction.changes, SpilledChanges)]
    in_memory = [transaction for transaction in transactions if not isinstance(transaction.changes, SpilledChanges)]
    if not _is_large(in_memory):
        return transactions
    merged = merge(in_memory)
    while files and len(files[-1].changes) <= len(merged.changes):
        merged = merge([files.pop(), merged])
    return [*files, merged]


def _is_spilled(transactions: Sequence[Transaction]) -> bool:
    return any(isinstance(transaction.changes, SpilledChanges) for transaction in transactions)


def _is_large(transactions: Sequence[Transaction]) -> bool:
    """Return whether the changes in memory are too many, or too long."""
    if sum(len(transaction.changes) for transaction in transactions) >= _MOST_EVENTS:
        return True
    changes = chain.from_iterable(transaction.changes for transaction in transactions)
    return sum(len(change.key) + len(change.after or b"") for change in changes) >= _MOST_BYTES


def _in_one_if_spilled(transactions: Sequence[Transaction]) -> Sequence[Transaction]:
    """Return one transaction if a part is in a file, because the applier writes a part in a file by itself."""
    return [merge(transactions)] if _is_spilled(transactions) else transactions


def _succeeds(apply: Callable[[Run], None], transactions: Sequence[Transaction]) -> bool:
    """Apply transactions. Return False if they conflict, and nothing was applied."""
    if not transactions:
        return True
    try:
        apply(Run(_in_one_if_spilled(transactions)))
    except ConflictError:
        return False
    return True


def _split_by_topic(transactions: Sequence[Transaction], order: Sequence[str]) -> dict[str, list[Transaction]]:
    """Return the parts of the transactions by topic, the topics of parents first. Each part has its own positions."""
    pieces: dict[str, list[Transaction]] = {}
    tables: dict[str, int] = {}
    rank = {table: index for index, table in enumerate(order)}
    for transaction in transactions:
        changes: defaultdict[str, list[Change]] = defaultdict(list)
        positions: defaultdict[str, dict[Partition, Position]] = defaultdict(dict)
        for change in transaction.changes:
            changes[change.partition[0]].append(change)
            tables.setdefault(change.partition[0], rank.get(change.layout.table, 0))
        for partition, position in transaction.positions.items():
            positions[partition[0]][partition] = position
        letters: defaultdict[str, list[LetterEvent]] = defaultdict(list)
        for letter in transaction.letters:
            letters[letter.event.partition[0]].append(letter)
        for topic in changes | positions | letters:
            last = max(changes[topic], key=lambda change: change.lsn, default=None)
            lsn, ts_ms = (0, 0) if last is None else (last.lsn, last.ts_ms)
            part = Transaction(
                transaction.id, lsn, ts_ms, changes[topic], positions[topic], by_key=True, letters=letters[topic]
            )
            pieces.setdefault(topic, []).append(part)
    return {topic: pieces[topic] for topic in sorted(pieces, key=lambda topic: tables.get(topic, 0))}
