"""Divide the changes of a large transaction into pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.spilled_changes import SpilledChanges

_PIECE_BYTES = 8 * 1024 * 1024


def pieces(changes: SpilledChanges, parents_first: Sequence[str], events: int) -> Iterator[list[Change]]:
    """Yield the changes table by table, in pieces of ``events`` changes or 8 MiB.

    First come the tables with nothing but deletes, children before parents. Then come the rest of the tables, parents
    before children. Most transactions satisfy the foreign keys of an engine without deferred checks in this order. The
    changes of a table are in the order of lsns.
    """
    tables = [table for table in parents_first if table in changes.counts]
    assert len(tables) == len(changes.counts), f"changes of unknown tables: {changes.counts.keys() - set(tables)}"
    for table in reversed(tables):
        if table not in changes.upserted_tables:
            yield from _divided(changes.of_table(table), events)
    for table in tables:
        if table in changes.upserted_tables:
            yield from _divided(changes.of_table(table), events)


def runs_in_order(changes: Iterable[Change], events: int) -> Iterator[list[Change]]:
    """Yield the changes in order, in runs of ``events`` changes or 8 MiB.

    A run has changes of a single layout, either upserts or deletes, and each key once. Therefore a single statement has
    the effect of the changes in order.
    """
    for _, group in groupby(changes, lambda change: (change.layout, change.after is None)):
        for piece in _divided(group, events):
            run: dict[bytes, Change] = {}
            for change in piece:
                if change.key in run:
                    yield list(run.values())
                    run = {}
                run[change.key] = change
            yield list(run.values())


def _divided(changes: Iterable[Change], events: int) -> Iterator[list[Change]]:
    piece: list[Change] = []
    size = 0
    for change in changes:
        piece.append(change)
        size += len(change.key) + len(change.after or b"")
        if len(piece) >= events or size >= _PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
