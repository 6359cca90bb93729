"""Carry an invalid message from its reader to the router."""

from __future__ import annotations

from rowcast.consumer.events.position import message_target
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.shared.errors import DataError, SuspectError


class BadMessageError(Exception):
    """The message at ``offset`` is not valid. The messages before it have been taken."""

    def __init__(self, offset: int, error: DataError, *, is_unreadable: bool = False) -> None:
        self.offset = offset
        self.error = error
        self.is_unreadable = is_unreadable
        """Whether the event cannot be read. If not, its lsn or another rule is the fault."""

    def to_data_error(self, stream: PartitionStream) -> DataError:
        """Return the error with topic, partition and offset, and with the value of ``--skip``."""
        kind = SuspectError if isinstance(self.error, SuspectError) else DataError
        error = kind(f"{stream.where(self.offset)}: {self.error}")
        if kind is DataError:
            error.skip = message_target(stream.partition, self.offset)
        return error
