"""Read the schema topic again where an event or END comes before the shape of its table."""

from __future__ import annotations

from typing import Any

from rowcast.consumer.events.change import Change, read_change
from rowcast.consumer.events.position import Partition
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.topic_metadata import add_shape, new_asker, read_shapes
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import TransactionEvent


class NewShapes:
    """Add shapes to the layouts of one reader."""

    def __init__(self, context: ReaderContext) -> None:
        self._settings = context.settings
        self._layouts = context.layouts
        self._skips = context.skips
        self.were_read = False
        """Set when a new shape was read. The reader thread resets it."""

    def add(self, value: bytes, offset: int) -> None:
        """Take a message of the schema topic."""
        self.were_read |= add_shape(value, self._layouts, offset)

    def read_event(self, message: Any, partition: Partition) -> Change | None:
        """Read an event with a shape unknown before."""
        self._read_topic()
        return read_change(
            message.key(), message.value(), partition, message.offset(), self._layouts, infer=True
        )  # fmt: skip

    def require(self, event: TransactionEvent) -> None:
        """Raise DataError if an END counts events of a wanted table without a shape.

        The relay commits a shape before sending the first event, so the shape is readable before the END.
        """
        if event.data_collections is None:
            return
        is_known = self._layouts.is_known
        unknown = [table for table, count in event.data_collections.items() if count and not is_known(table)]
        if not unknown:
            return
        self._read_topic()
        for table in unknown:
            if not is_known(table):
                raise DataError(f"transaction {event.id} has events of table {table}: {self._layouts.no_shape(table)}")

    def _read_topic(self) -> None:
        with new_asker(self._settings) as asker:
            read_shapes(asker, self._settings, self._layouts, self._skips)
        self.were_read = True
