"""End reading each partition before the first message of a greater lsn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rowcast.consumer.events.connect_decoder import WITH_SCHEMA, plain_message
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import parse_change, parse_transaction


class LsnLimit:
    """Know the messages up to an lsn, or all messages for None.

    Committed messages of a partition are in the order of their lsns. Therefore a partition has nothing of smaller lsns
    behind its first message of a greater lsn.
    """

    def __init__(self, lsn: int | None) -> None:
        self._lsn = lsn

    @property
    def exists(self) -> bool:
        """Return whether messages are left out."""
        return self._lsn is not None

    def wanted(self, stream: PartitionStream, messages: Sequence[Any]) -> Sequence[Any]:
        """Return the messages before the first message of a greater lsn. Shapes are never left out."""
        if self._lsn is None or stream.kind == "schema":
            return messages
        last = next((lsn for m in reversed(messages) if (lsn := message_lsn(m, stream.kind)) is not None), 0)
        if last <= self._lsn:
            return messages
        for place, message in enumerate(messages):
            if (message_lsn(message, stream.kind) or 0) > self._lsn:
                return messages[:place]
        return messages


def message_lsn(message: Any, kind: str) -> int | None:
    """Return the lsn of a message, or None for a tombstone and for an unreadable message."""
    key, value = message.key(), message.value()
    if value is None:
        return None
    try:
        if kind == "transaction":
            return parse_transaction(value).lsn
        if value.startswith(WITH_SCHEMA):
            key, value = plain_message(key, value)
        return parse_change(key, value).lsn
    except DataError:
        return None
