"""Read messages again at their places in the topics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rowcast.consumer.events.position import Partition, message_target
from rowcast.consumer.reading.topic_metadata import new_asker
from rowcast.consumer.replica.positions import ReplicaChangedError
from rowcast.consumer.topics.messages_between import messages_between
from rowcast.shared.config.settings import Settings

Place = tuple[Partition, int]
"""A partition and an offset."""


def messages_at(settings: Settings, places: Sequence[Place]) -> dict[Place, Any]:
    """Return the messages at the places, committed or not, without messages removed by Kafka.

    Raise UnreachableError.
    """
    offsets: dict[Partition, set[int]] = {}
    for partition, offset in places:
        offsets.setdefault(partition, set()).add(offset)
    starts = {partition: min(wanted) for partition, wanted in offsets.items()}
    ends = {partition: max(wanted) + 1 for partition, wanted in offsets.items()}
    found = {}
    with new_asker(settings) as consumer:
        for message in messages_between(consumer, settings, starts, ends):
            partition = message.topic(), message.partition()
            if message.offset() in offsets[partition]:
                found[partition, message.offset()] = message
    return found


def original_messages(settings: Settings, places: Sequence[Place]) -> dict[Place, Any]:
    """Return the messages at these places.

    Raise ReplicaChangedError if compaction has removed a message since the worker's read. The worker then reads on
    without the message, like a worker that comes after the compaction.
    """
    found = messages_at(settings, places)
    for place in places:
        if place not in found:
            raise ReplicaChangedError(f"Kafka has removed the event {message_target(*place)} since it was read")
    return found
