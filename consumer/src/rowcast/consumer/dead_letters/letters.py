"""Group the events in the dead letter topic to letters. The events of a letter are applied together or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rowcast.consumer.events.dead_letter import LetterEvent, RowKey
from rowcast.shared.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Letter:
    """A refused transaction of a replica, or a refused event. ``events``: in the order of lsns."""

    id: str
    events: Sequence[LetterEvent]

    @property
    def rows(self) -> set[RowKey]:
        """Return the blocked rows."""
        events = (one.event for one in self.events)
        return {(event.table, event.key) for event in events if event.table is not None and event.key is not None}

    @property
    def lsn(self) -> int:
        """Return the first lsn."""
        return self.events[0].event.lsn

    @property
    def first(self) -> LetterEvent:
        """Return the refused event, or the first event if all follow an earlier letter."""
        return next((one for one in self.events if one.event.is_cause), self.events[0])


def to_letters(events: Iterable[LetterEvent]) -> list[Letter]:
    """Return the letters in the order of their first lsns. ``events``: in the order of lsns."""
    grouped: dict[str, list[LetterEvent]] = {}
    for one in events:
        grouped.setdefault(one.event.letter, []).append(one)
    return [Letter(id_, of_letter) for id_, of_letter in grouped.items()]


def chosen(letters: Sequence[Letter], ids: Sequence[str]) -> list[Letter]:
    """Return the letters with the given ids of letters, transactions or events. Without ids, return all.

    Raise ConfigurationError for an unknown id.
    """
    if not ids:
        return list(letters)
    names = [
        {letter.id, *(name for one in letter.events for name in (one.event.transaction, one.event.target))}
        for letter in letters
    ]
    for id_ in ids:
        if not any(id_ in of_letter for of_letter in names):
            known = ", ".join(letter.id for letter in letters) or "none"
            raise ConfigurationError(f"no letter {id_!r} waits (waiting: {known}). Name a waiting letter.")
    return [letter for letter, of_letter in zip(letters, names, strict=True) if of_letter.intersection(ids)]
