"""Read the messages of letters from the dead letter topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from rowcast.consumer.dead_letters.letters import Letter
from rowcast.consumer.dead_letters.original_messages import messages_at
from rowcast.consumer.events.change import Change, read_change
from rowcast.consumer.events.dead_letter import LetterEvent
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError

CONNECT_PREFIX = "__connect.errors."
"""The beginning of the headers that Kafka Connect gives to dead letters."""


def letter_messages(settings: Settings, letters: Sequence[Letter]) -> dict[LetterEvent, Any]:
    """Return the message of each event of the letters, without the messages that are not there any more."""
    events = [one for letter in letters for one in letter.events]
    found = messages_at(settings, [(one.place, one.place_offset) for one in events])
    pairs = ((one, found.get((one.place, one.place_offset))) for one in events)
    return {one: message for one, message in pairs if message is not None and _is_of(message, one)}


def changes_of(letters: Sequence[Letter], messages: dict[LetterEvent, Any], layouts: RowLayouts) -> Iterator[Change]:
    """Yield the changes of letters, in the order of lsns. Raise DataError if a message is missing or not valid."""
    events = sorted((one for letter in letters for one in letter.events), key=lambda one: one.event.lsn)
    for one in events:
        if one not in messages:
            raise DataError(
                f"the dead letter topic {one.place[0]} has no message of event {one.event.target} any more at offset "
                f"{one.place_offset}. Drop the letter, and compare: rowcast verify"
            )
        change = _change(messages[one], one, layouts)
        if change is not None:
            yield change


def _change(message: Any, one: LetterEvent, layouts: RowLayouts) -> Change | None:
    event, value = one.event, message.value()
    if value is not None:
        try:
            return read_change(message.key(), value, event.partition, event.offset, layouts, infer=True)
        except DataError as error:
            raise DataError(f"event {event.target} still cannot be read: {error}") from error
    # A tombstone is a delete.
    assert event.table is not None
    assert event.key is not None
    layout = layouts.infer(event.table, "", orjson.loads(event.key))
    return Change(layout, event.key, None, event.lsn, event.transaction, 0, event.partition, event.offset)


def _is_of(message: Any, one: LetterEvent) -> bool:
    """Return whether the message is the event, because the topic may have been created again."""
    topic, partition = one.event.partition
    place = {"topic": topic, "partition": partition, "offset": one.event.offset}
    headers = dict(message.headers() or ())
    return all(headers.get(f"{CONNECT_PREFIX}{name}") == str(value).encode() for name, value in place.items())
