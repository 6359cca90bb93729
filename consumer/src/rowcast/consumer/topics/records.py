"""Read any record of a table topic in a form for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from rowcast.consumer.events.connect_decoder import WITH_SCHEMA, plain_key, plain_message
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import ChangeEvent, parse_change

OPERATIONS = {"c": "create", "u": "update", "d": "delete", "r": "read", "t": "truncate"}
"""The words for Debezium's ``op``. ``read`` is a row of a snapshot."""


@dataclass(frozen=True, slots=True)
class TopicRecord:
    """Hold a record of a table topic.

    ``published_ms``: Kafka's time of the record, in milliseconds since 1970. ``event`` is None for a tombstone, and for
    a record that is not a change event. ``fault`` then names the reason.
    """

    topic: str
    partition: int
    offset: int
    published_ms: int
    key: dict[str, Any] | None = None
    event: ChangeEvent | None = None
    fault: str | None = None

    @property
    def place(self) -> str:
        """Return ``TOPIC:PARTITION:OFFSET``, as the errors of a worker name a record."""
        return f"{self.topic}:{self.partition}:{self.offset}"

    @property
    def what(self) -> str:
        """Return a word for the operation."""
        if self.event is not None:
            return OPERATIONS[self.event.op]
        return "tombstone" if self.fault is None else "unreadable"


def read_record(message: Any) -> TopicRecord:
    """Read a message of Kafka's client. A message without a value is a tombstone."""
    place = (message.topic(), message.partition(), message.offset(), int(message.timestamp()[1]))
    key, value = message.key(), message.value()
    try:
        if value is None:
            return TopicRecord(*place, read_key(key))
        if value.startswith(WITH_SCHEMA):
            key, value = plain_message(key, value)
        event = parse_change(key, value)
    except DataError as error:
        return TopicRecord(*place, fault=str(error))
    return TopicRecord(*place, event.key, event)


def read_key(key: bytes | None) -> dict[str, Any]:
    """Return the columns of a message key. Raise DataError if the key is not an object."""
    if key is not None and key.startswith(WITH_SCHEMA):
        key = plain_key(key)
    try:
        columns = orjson.loads(key or b"")
    except orjson.JSONDecodeError as error:
        raise DataError(f"the key is not JSON: {error}") from error
    if not isinstance(columns, dict):
        raise DataError("the key is not an object of the primary key's columns")
    return columns
