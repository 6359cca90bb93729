"""Read the messages of letters from the dead letter topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rowcast.consumer.dead_letters.letters import Letter
from rowcast.consumer.dead_letters.original_messages import messages_at
from rowcast.consumer.events.dead_letter import LetterEvent
from rowcast.shared.config.settings import Settings

CONNECT_PREFIX = "__connect.errors."
"""The beginning of the headers that Kafka Connect gives to dead letters."""


def letter_messages(settings: Settings, letters: Sequence[Letter]) -> dict[LetterEvent, Any]:
    """Return the message of each event of the letters, without the messages removed by Kafka."""
    events = [one for letter in letters for one in letter.events]
    found = messages_at(settings, [(one.place, one.place_offset) for one in events])
    pairs = ((one, found.get((one.place, one.place_offset))) for one in events)
    return {one: message for one, message in pairs if message is not None and _is_of(message, one)}


def _is_of(message: Any, one: LetterEvent) -> bool:
    """Return whether the message is the event, because the topic may have been created again."""
    topic, partition = one.event.partition
    place = {"topic": topic, "partition": partition, "offset": one.event.offset}
    headers = dict(message.headers() or ())
    return all(headers.get(f"{CONNECT_PREFIX}{name}") == str(value).encode() for name, value in place.items())
