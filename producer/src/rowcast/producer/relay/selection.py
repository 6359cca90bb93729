"""Which outbox rows come next: whole transactions, ordered by the greatest id of each among what is visible.

A transaction that saw another's rows drew all its ids after the other's, and can only be visible when the other is: so
this order respects every dependency (``docs/decisions/``).

Where many rows wait, what is visible may be what was so at the last look through all of them (``ends``). Nothing there
depends on what has become visible since: it may come later, as if all the others had been claimed at that moment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rowcast.producer.relay.ends import Ends, Searchable
from rowcast.producer.relay.reading import Head
from rowcast.producer.relay.unfinished import Unfinished
from rowcast.shared.errors import DataError


class Readable(Searchable, Protocol):
    """What ``reading.Outbox`` offers."""

    def heads(self, limit: int, without: range, above: int) -> list[Head]: ...
    def heads_of(self, transactions: Collection[str], after_id: int, end_id: int, limit: int) -> list[Head]: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows in the order of publishing, those of a transaction together. ``end_id``: the greatest outbox id of the last
    transaction, if it goes on after these rows; ``more``: whether others are waiting."""

    heads: Sequence[Head] = ()
    end_id: int | None = None
    more: bool = False

    def before(self, tx: str) -> Selection:
        """The transactions that come before this one."""
        first = next(i for i, head in enumerate(self.heads) if head.tx == tx)
        return Selection(self.heads[:first])


@dataclass(frozen=True, slots=True)
class Limits:
    """What a claim holds at most; a single row may be larger than ``size`` bytes."""

    rows: int
    size: int


def select_next(
    outbox: Readable, ends: Ends, claimed: Collection[int], unfinished: Unfinished | None, limits: Limits
) -> Selection:
    """The next rows to claim; none if all that is visible is claimed.

    ``claimed`` are rows that are claimed and not yet deleted; ``ends`` is told of what is claimed by the caller. Raises
    DataError if the rest of an unfinished transaction is not there.
    """
    if unfinished is not None:
        rest = outbox.heads_of((unfinished.tx,), unfinished.last_id, unfinished.end_id, limits.rows)
        selection = _cut(rest, unfinished.end_id, limits)
        if not selection.heads:
            raise DataError(
                f"the outbox rows of transaction {unfinished.tx} after id {unfinished.last_id}, up to "
                f"{unfinished.end_id}, are gone, and a part of the transaction is published. Restore them."
            )
        return selection
    # The database passes over these faster than it hands them out.
    run = _longest_run(claimed)
    limit = limits.rows + 1 + len(claimed) - len(run)
    # What is above all that is claimed is new, and not fetched in vain.
    window = outbox.heads(limit, run, max(claimed, default=0))
    heads = [head for head in window if head.id not in claimed]
    if not heads:
        return Selection()
    if len(window) < limit:
        selection = _fitting(_by_end(heads), limits)
    else:
        selection = _known(outbox, ends, heads, limits)
        if not selection.heads:
            ends.look(outbox, heads[0].id, claimed)
            selection = _known(outbox, ends, heads, limits)
    return replace(selection, more=len(selection.heads) < len(heads))


def _longest_run(ids: Iterable[int]) -> range:
    """Of ids without a gap."""
    first = last = start = stop = 0
    for id_ in sorted(ids):
        if id_ != stop:
            start = id_
        stop = id_ + 1
        if stop - start > last - first:
            first, last = start, stop
    return range(first, last)


def _by_end(heads: Sequence[Head]) -> list[list[Head]]:
    transactions: dict[str, list[Head]] = {}
    for head in heads:
        transactions.setdefault(head.tx, []).append(head)
    return sorted(transactions.values(), key=lambda rows: rows[-1].id)


def _known(outbox: Readable, ends: Ends, heads: Sequence[Head], limits: Limits) -> Selection:
    """Of the first rows that wait, or else of all, what is known to end first."""
    if whole := _whole(_by_end(heads), ends):
        return _fitting(whole, limits)
    transactions, end_id = ends.first(limits.rows)
    rows = outbox.heads_of(transactions, heads[0].id - 1, end_id, limits.rows) if transactions else []
    return _fitting(_by_end(rows), limits) if len(transactions) > 1 and rows else _cut(rows, end_id, limits)


def _whole(transactions: Iterable[list[Head]], ends: Ends) -> list[list[Head]]:
    """Those that surely have no further rows, and no other transaction ends before them."""
    whole = []
    for rows in transactions:
        last = rows[-1]
        if last.complete or (last.complete is None and ends.of(last.tx) == last.id):
            whole.append(rows)
        elif last.complete is None and ends.of(last.tx) < last.id:
            # Nothing is known of it but that it ends no sooner than its last row that we see.
            break
    return whole


def _fitting(transactions: Sequence[list[Head]], limits: Limits) -> Selection:
    chosen: list[Head] = []
    size = 0
    for rows in transactions:
        size += sum(head.size for head in rows)
        if len(chosen) + len(rows) > limits.rows or size > limits.size:
            break
        chosen += rows
    if chosen:
        return Selection(chosen)
    return _cut(transactions[0], transactions[0][-1].id, limits)


def _cut(rows: Sequence[Head], end_id: int, limits: Limits) -> Selection:
    chosen: list[Head] = []
    size = 0
    for head in rows[: limits.rows]:
        size += head.size
        if chosen and size > limits.size:
            break
        chosen.append(head)
    goes_on = bool(chosen) and chosen[-1].id < end_id
    return Selection(chosen, end_id if goes_on else None, goes_on)
