"""Which outbox rows come next: whole transactions, ordered by the greatest id of each among what is visible.

A transaction that saw another's rows drew all its ids after the other's, and can only be visible when the other is: so
this order respects every dependency (``docs/decisions/``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rowcast.producer.relay.reading import Head
from rowcast.producer.relay.unfinished import Unfinished
from rowcast.shared.errors import DataError


class Readable(Protocol):
    """What ``reading.Outbox`` offers."""

    def heads(self, limit: int, without: range, above: int) -> list[Head]: ...
    def heads_of(self, tx: str, after_id: int, end_id: int, limit: int) -> list[Head]: ...
    def going_on(self, transactions: Collection[str], after_id: int) -> set[str]: ...
    def first_to_end(self, from_id: int, claimed: Collection[int]) -> tuple[str, int]: ...


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


def select_next(outbox: Readable, claimed: Collection[int], unfinished: Unfinished | None, limits: Limits) -> Selection:
    """The next rows to claim; none if all that is visible is claimed.

    ``claimed`` are rows that are claimed and not yet deleted. Raises DataError if the rest of an unfinished
    transaction is not there.
    """
    if unfinished is not None:
        selection = _part(outbox, unfinished.tx, unfinished.last_id, unfinished.end_id, limits)
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
    transactions = _by_end(heads)
    if len(window) == limit:
        transactions = _whole(outbox, transactions, window[-1].id)
        if not transactions:
            tx, end_id = outbox.first_to_end(heads[0].id, claimed)
            return _part(outbox, tx, heads[0].id - 1, end_id, limits)
    selection = _fitting(transactions, limits)
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


def _whole(outbox: Readable, transactions: Sequence[list[Head]], cut_id: int) -> list[list[Head]]:
    """Those that surely have no rows behind the cut, and no other transaction ends before them."""
    unknown = [rows for rows in transactions if rows[-1].complete is None]
    ended = [rows for rows in transactions if rows[-1].complete]
    if unknown:
        # An unknown one ends no sooner than its last row that we see: what ends before that needs no further look.
        earliest = unknown[0][-1].id
        if before := [rows for rows in ended if rows[-1].id < earliest]:
            return before
        going_on = outbox.going_on({rows[0].tx for rows in unknown}, cut_id)
        ended += [rows for rows in unknown if rows[0].tx not in going_on]
    return sorted(ended, key=lambda rows: rows[-1].id)


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


def _part(outbox: Readable, tx: str, after_id: int, end_id: int, limits: Limits) -> Selection:
    return _cut(outbox.heads_of(tx, after_id, end_id, limits.rows), end_id, limits)


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
