"""Describe events for the dead letter topic: the reason for the refusal, and the events that stay together."""

from __future__ import annotations

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.dead_letter import RowKey, SetAside, UnreadEvent
from rowcast.consumer.events.position import message_target
from rowcast.consumer.replica.refusals import RefusedError

_FOLLOWS = "an earlier event of this row, or of another row of its transaction, waits in the dead letter topic"
_BELONGS = "another event of its transaction was refused"


def change_event(
    change: Change, row: RowKey, letter: str | None, cause: RefusedError | None, *, follows: bool
) -> SetAside:
    """Return the event of a change. ``letter``: the transaction to keep whole, or None.

    ``cause``: the reason for the refusal. ``follows``: the event follows an earlier letter. If neither is given, the
    event belongs to a refused event.
    """
    reason = str(cause) if cause is not None else _FOLLOWS if follows else _BELONGS
    return SetAside(
        letter or message_target(change.partition, change.offset), change.partition, change.offset, change.lsn,
        change.transaction, *row, reason, class_of(cause), "TASK_PUT", is_cause=cause is not None,
    )  # fmt: skip


def unread_event(event: UnreadEvent, letter: str | None) -> SetAside:
    """Return the event of an unreadable message. ``letter``: the transaction to keep whole, or None."""
    return SetAside(
        letter or message_target(event.partition, event.offset), event.partition, event.offset, event.lsn,
        event.transaction, event.table, event.key, str(event.error), class_of(event.error), "VALUE_CONVERTER",
        is_cause=True,
    )  # fmt: skip


def class_of(error: BaseException | None) -> str:
    """Return the class of the first error in a chain of causes, with its module, or "" without an error."""
    if error is None:
        return ""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__module__}.{type(error).__qualname__}"
