"""Select the outbox rows to publish next: whole transactions, in the order of their end ids.

The end id of a transaction is its greatest outbox id among the visible rows. Suppose
that transaction B saw rows of transaction A. Then B drew all its ids after A, and B is visible only if A is visible.
The order of end ids therefore respects every dependency (``docs/decisions/``).

With a large backlog, the end ids may come from an earlier scan of the whole outbox (``TransactionEnds``). No
transaction of the scan depends on rows that have become visible since. These rows may be published later, as if all
transactions of the scan had been claimed at the moment of the scan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rowcast.producer.relay.claims.outbox_reader import Head
from rowcast.producer.relay.claims.partial_transaction import PartialTransaction
from rowcast.producer.relay.claims.transaction_ends import HasTransactionEnds, TransactionEnds
from rowcast.shared.errors import DataError


class HasHeads(HasTransactionEnds, Protocol):
    """Declare the methods of ``OutboxReader`` that a selection needs."""

    def heads(self, limit: int, without: range, above: int) -> list[Head]:
        """Return the first visible rows."""

    def heads_of(self, transactions: Collection[str], after_id: int, end_id: int, limit: int) -> list[Head]:
        """Return the first visible rows of these transactions."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Hold rows in the order of publication, the rows of each transaction together.

    ``end_id``: the end id of the last transaction if the transaction has further rows, else None. ``more``: whether
    further rows wait.
    """

    heads: Sequence[Head] = ()
    end_id: int | None = None
    more: bool = False

    def before_transaction(self, tx: str) -> Selection:
        """Return the transactions before the partial transaction."""
        first = next(i for i, head in enumerate(self.heads) if head.tx == tx)
        return Selection(self.heads[:first])


@dataclass(frozen=True, slots=True)
class Limits:
    """Limit a claim to ``rows`` rows and ``size`` bytes. A single row may have more bytes."""

    rows: int
    size: int


def select_next(
    outbox: HasHeads,
    ends: TransactionEnds,
    claimed: Collection[int],
    partial: PartialTransaction | None,
    limits: Limits,
) -> Selection:
    """Return the next rows to claim. The selection is empty if all visible rows are claimed.

    ``claimed``: ids of claimed rows, not deleted yet. ``partial``: the partial transaction at the end of the last
    claim, whose rest comes before anything else. The caller drops claimed transactions from ``ends``. Raises
    DataError if the rest of the partial transaction is missing.
    """
    if partial is not None:
        return _select_rest(outbox, partial, limits)
    # The database skips the ids of a range faster than the client skips rows.
    skipped = _longest_run(claimed)
    limit = limits.rows + 1 + len(claimed) - len(skipped)
    # Rows above all claimed ids are new. Only new rows are fetched with their changes.
    window = outbox.heads(limit, skipped, max(claimed, default=0))
    heads = [head for head in window if head.id not in claimed]
    if not heads:
        return Selection()
    if len(window) < limit:
        selection = _take_within_limits(_group_by_end(heads), limits)
    else:
        selection = _select_known(outbox, ends, heads, limits)
        if not selection.heads:
            ends.scan(outbox, heads[0].id, claimed)
            selection = _select_known(outbox, ends, heads, limits)
    return replace(selection, more=len(selection.heads) < len(heads))


def _select_rest(outbox: HasHeads, partial: PartialTransaction, limits: Limits) -> Selection:
    """Return the next rows of a partial transaction."""
    rest = outbox.heads_of((partial.tx,), partial.last_id, partial.end_id, limits.rows)
    selection = _cut_to_limits(rest, partial.end_id, limits)
    if not selection.heads:
        raise DataError(
            f"the outbox rows of transaction {partial.tx} after id {partial.last_id}, up to {partial.end_id}, are "
            "missing, and a part of the transaction is published. Restore the rows."
        )
    return selection


def _longest_run(ids: Iterable[int]) -> range:
    """Return the longest range of ids without a gap."""
    first = last = start = stop = 0
    for id_ in sorted(ids):
        if id_ != stop:
            start = id_
        stop = id_ + 1
        if stop - start > last - first:
            first, last = start, stop
    return range(first, last)


def _group_by_end(heads: Sequence[Head]) -> list[list[Head]]:
    """Return the rows of each transaction, the transactions in the order of their last rows."""
    transactions: dict[str, list[Head]] = {}
    for head in heads:
        transactions.setdefault(head.tx, []).append(head)
    return sorted(transactions.values(), key=lambda rows: rows[-1].id)


def _select_known(outbox: HasHeads, ends: TransactionEnds, heads: Sequence[Head], limits: Limits) -> Selection:
    """Select transactions whose ends are known: of the first waiting rows if possible, else of the last scan."""
    if whole := _complete_transactions(_group_by_end(heads), ends):
        return _take_within_limits(whole, limits)
    transactions, end_id = ends.first_transactions(limits.rows)
    rows = outbox.heads_of(transactions, heads[0].id - 1, end_id, limits.rows) if transactions else []
    if len(transactions) > 1 and rows:
        return _take_within_limits(_group_by_end(rows), limits)
    return _cut_to_limits(rows, end_id, limits)


def _complete_transactions(transactions: Iterable[list[Head]], ends: TransactionEnds) -> list[list[Head]]:
    """Return the transactions without further rows that end before all remaining transactions."""
    whole = []
    for rows in transactions:
        last = rows[-1]
        if last.complete or (last.complete is None and ends.end_of(last.tx) == last.id):
            whole.append(rows)
        elif last.complete is None and ends.end_of(last.tx) < last.id:
            # The end of the transaction is unknown, at or after the last row in the window.
            break
    return whole


def _take_within_limits(transactions: Sequence[list[Head]], limits: Limits) -> Selection:
    """Select the first transactions within the limits, or a part of the first transaction if it exceeds the limits."""
    chosen: list[Head] = []
    size = 0
    for rows in transactions:
        size += sum(head.size for head in rows)
        if len(chosen) + len(rows) > limits.rows or size > limits.size:
            break
        chosen += rows
    if chosen:
        return Selection(chosen)
    return _cut_to_limits(transactions[0], transactions[0][-1].id, limits)


def _cut_to_limits(rows: Sequence[Head], end_id: int, limits: Limits) -> Selection:
    """Select the first rows of a transaction within the limits, at least a single row."""
    chosen: list[Head] = []
    size = 0
    for head in rows[: limits.rows]:
        size += head.size
        if chosen and size > limits.size:
            break
        chosen.append(head)
    has_more = bool(chosen) and chosen[-1].id < end_id
    return Selection(chosen, end_id if has_more else None, has_more)
