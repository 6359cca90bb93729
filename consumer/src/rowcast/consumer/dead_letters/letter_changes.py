"""Read the messages of letters again, in the format of the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rowcast.consumer.dead_letters.letters import Letter
from rowcast.consumer.debezium.event_forms import EventForms
from rowcast.consumer.debezium.event_reader import EventReader
from rowcast.consumer.debezium.existing_tables import ExistingTables
from rowcast.consumer.events.change import Change, read_change
from rowcast.consumer.events.dead_letter import LetterEvent
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.topic_metadata import new_asker, read_shapes
from rowcast.consumer.replica.connection import Replica
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError


@dataclass(frozen=True, slots=True)
class _MovedMessage:
    """The message of a letter at the place of its event, with the methods of the client's message."""

    message: Any
    event: LetterEvent

    def topic(self) -> str:
        return self.event.event.partition[0]

    def partition(self) -> int:
        return self.event.event.partition[1]

    def offset(self) -> int:
        return self.event.event.offset

    def key(self) -> bytes | None:
        key: bytes | None = self.message.key()
        return key

    def value(self) -> bytes | None:
        value: bytes | None = self.message.value()
        return value

    def timestamp(self) -> tuple[int, int]:
        kind, ms = self.message.timestamp()
        return int(kind), int(ms)


class LetterChanges:
    """Read the changes of letters to one replica. Shapes come from where the worker has them."""

    def __init__(self, settings: Settings, replica: str, layouts: RowLayouts) -> None:
        self._settings = settings
        self._layouts = layouts
        self._debezium: EventReader | None = None
        if settings.format == "debezium":
            tables = ExistingTables(settings, settings.replica(replica))
            self._debezium = EventReader(settings, layouts, EventForms(settings.debezium, layouts, tables))

    def read_shapes(self, replica: Replica) -> None:
        """Read the shapes of the tables. Raise DataError and UnreachableError."""
        if self._debezium is not None:
            for shape in replica.recorded_shapes():
                self._layouts.add(shape.version, shape)
            return
        with new_asker(self._settings) as asker:
            read_shapes(asker, self._settings, self._layouts)

    def read(self, letters: Sequence[Letter], messages: Mapping[LetterEvent, Any]) -> Iterator[Change]:
        """Yield the changes of letters, in the order of lsns. Raise DataError if a message is missing or not valid."""
        events = sorted((one for letter in letters for one in letter.events), key=lambda one: one.event.lsn)
        for one in events:
            if one not in messages:
                raise DataError(
                    f"the dead letter topic {one.place[0]} has no message of event {one.event.target} any more at "
                    f"offset {one.place_offset}. Drop the letter, and compare: rowcast verify"
                )
            change = self._read(messages[one], one)
            if change is not None:
                yield change._replace(lsn=one.event.lsn)

    def _read(self, message: Any, one: LetterEvent) -> Change | None:
        event, value = one.event, message.value()
        try:
            if self._debezium is not None:
                found = self._debezium.read(_MovedMessage(message, one))
                return None if found is None else found.change
            if value is not None:
                return read_change(message.key(), value, event.partition, event.offset, self._layouts, infer=True)
        except DataError as error:
            raise DataError(f"event {event.target} still cannot be read: {error}") from error
        # A tombstone is a delete.
        assert event.table is not None
        assert event.key is not None
        layout = self._layouts.infer(event.table, "", orjson.loads(event.key))
        return Change(layout, event.key, None, event.lsn, event.transaction, 0, event.partition, event.offset)
