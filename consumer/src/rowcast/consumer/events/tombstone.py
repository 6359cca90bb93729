"""Read tombstones as deletes, because compaction may have removed the delete events before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.connect_decoder import WITH_SCHEMA, plain_key
from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import TOMBSTONE_LSN, payload_of
from rowcast.shared.tables.shape import TableShape

_MAX_DIGITS = 18

OPEN_LSN = 2**63 - 1
"""The lsn of a tombstone while no later event of its partition is known. No event has a greater lsn."""


class Tombstone(Change):
    """A delete shown only by a tombstone without an lsn. ``ts_ms``: when the tombstone was published.

    The lsn lies between the lsns of the neighbouring events in the partition.
    """

    __slots__ = ()


class TombstoneReader:
    """Read the tombstones of one source. ``topic_of``: the topic of a table, given schema and name."""

    def __init__(self, layouts: RowLayouts, topic_of: Callable[[str, str], str]) -> None:
        self._layouts = layouts
        self._topic_of = topic_of

    def read(self, message: Any, previous: Any, partition: Partition) -> Change | None:
        """Return the delete, or None if the tombstone deletes nothing.

        Return a ``Tombstone`` if the message has no lsn, because another program or an older relay wrote the message.
        ``previous``: the message before in the partition, if known. A tombstone after its delete event deletes nothing.
        """
        if message.key() is None or (previous is not None and _is_delete(previous, message.key())):
            return None
        shape = self._shape(partition[0])
        key = key_columns(message.key())
        # A tombstone of an earlier primary key, or of a topic with several tables, names no row of the replica.
        if shape is None or key is None or key.keys() != set(shape.primary_key):
            return None
        layout = self._layouts.infer(shape.full_name, "", shape.primary_key)
        text = orjson.dumps({name: key[name] for name in shape.primary_key})
        lsn = _lsn(message)
        kind = Tombstone if lsn is None else Change
        time_ms = message.timestamp()[1]
        return kind(layout, text, None, OPEN_LSN if lsn is None else lsn, None, time_ms, partition, message.offset())

    def _shape(self, topic: str) -> TableShape | None:
        """Return the latest shape of the topic's table, or None if the topic has several tables."""
        shapes = [s for s in self._layouts.latest_shapes() if self._topic_of(s.schema, s.name) == topic]
        return shapes[0] if len(shapes) == 1 else None


def _is_delete(message: Any, key: bytes) -> bool:
    """Return whether a message is the delete event of the key. The router has checked the message already."""
    value = message.value()
    if value is None or message.key() != key:
        return False
    try:
        envelope = payload_of(orjson.loads(value))
        return isinstance(envelope, dict) and envelope.get("op") == "d"
    except orjson.JSONDecodeError:
        return False


def _lsn(message: Any) -> int | None:
    """Return the lsn in the headers of a tombstone."""
    for name, value in message.headers() or ():
        if name == TOMBSTONE_LSN and value is not None and value.isdigit() and len(value) <= _MAX_DIGITS:
            return int(value)
    return None


def key_columns(key: bytes) -> dict[str, Any] | None:
    """Return the columns of a key, or None if the key is no object."""
    try:
        columns = orjson.loads(plain_key(key) if key.startswith(WITH_SCHEMA) else key)
    except (orjson.JSONDecodeError, DataError):
        return None
    return columns if isinstance(columns, dict) else None
