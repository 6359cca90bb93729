"""Find the refused changes of a transaction, so that the remaining changes can be applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.engine import Connection

from rowcast.consumer.events.change import Change
from rowcast.consumer.replica.fold import fold
from rowcast.consumer.replica.refusals import RefusedError

Write = Callable[[Sequence[Change]], None]
Refused = tuple[Change, RefusedError]


def find_refused(
    connection: Connection, changes: Sequence[Change], order: Sequence[str], write: Write
) -> list[Refused]:
    """Return the last change of each refused row, with the error. Nothing is written afterwards.

    ``order``: the names of the tables, parents first. ``write``: write changes of different rows, or raise
    RefusedError. Call this in a transaction.

    Halves of the changes are written in savepoints until the refused changes are alone. A refused change is tried again
    as long as other changes go through, because the refused row may refer to their rows.
    """
    outer = connection.begin_nested()
    try:
        rest = _in_order(changes, order)
        while True:
            found = _refused_of(connection, rest, write)
            if len(found) == len(rest) or not found:
                return found
            rest = [change for change, _ in found]
    finally:
        outer.rollback()


def _in_order(changes: Sequence[Change], order: Sequence[str]) -> list[Change]:
    """Return the last change of each row: deletes, children first, and then upserts, parents first."""
    folded = fold(changes)
    tables = [list(folded[table].values()) for table in order if table in folded]
    deletes = [change for rows in reversed(tables) for change in rows if change.after is None]
    return [*deletes, *(change for rows in tables for change in rows if change.after is not None)]


def _refused_of(connection: Connection, changes: Sequence[Change], write: Write) -> list[Refused]:
    """Write the changes in savepoints, and return the refused changes."""
    if not changes:
        return []
    try:
        with connection.begin_nested():
            write(changes)
    except RefusedError as refusal:
        if len(changes) == 1:
            return [(changes[0], refusal)]
    else:
        return []
    middle = len(changes) // 2
    first = _refused_of(connection, changes[:middle], write)
    return first + _refused_of(connection, changes[middle:], write)
