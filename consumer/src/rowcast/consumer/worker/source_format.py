"""Choose the format of a source's topics: rowcast's relay, or a connector of Debezium."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from rowcast.consumer.debezium.debezium_reader import DebeziumReader
from rowcast.consumer.debezium.topics import find_topics
from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.reader_thread import ReaderThread
from rowcast.consumer.reading.skips import Skips
from rowcast.consumer.reading.topic_metadata import partitions_of, read_shapes
from rowcast.consumer.reading.transaction_queue import TransactionQueue
from rowcast.consumer.replica.connection import Replica
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.topic_names import transaction_topic
from rowcast.shared.vitals import Vitals


class SourceReader(Protocol):
    """Read topics on a thread, and put transactions into ``queue``."""

    queue: TransactionQueue

    @property
    def ends(self) -> Mapping[Partition, int]:
        """Return the ends that all workers together must reach before the replica follows."""

    @property
    def unanswered_s(self) -> float:
        """Return for how long Kafka has not answered."""

    @property
    def deletes_known_ms(self) -> int:
        """Return the time before which the loading replica knows all deletes. 0: the time is not known."""

    def start(self) -> None:
        """Start the thread."""

    def close(self) -> None:
        """Stop reading and wait for the thread."""


def is_debezium(settings: Settings) -> bool:
    """Return whether a connector of Debezium writes the topics."""
    return settings.format == "debezium"


def is_shared(settings: Settings, replica: str) -> bool:
    """Return whether a group of workers may write the replica, each worker the rows of its partitions."""
    return settings.replica(replica).consistency == "row" and not is_debezium(settings)


def has_topics(client: Any, settings: Settings, layouts: RowLayouts) -> bool:
    """Return whether the relay or the connector has created topics. Raise UnreachableError."""
    if is_debezium(settings):
        return bool(find_topics(client, settings, layouts))
    return bool(partitions_of(client, [transaction_topic(settings.source)]))


def read_first_shapes(asker: Any, settings: Settings, layouts: RowLayouts, skips: Skips, replica: Replica) -> None:
    """Read the shapes of the tables before the first event: from the schema topic, or from the replica itself.

    Debezium has no schema topic. Its events bring the shapes, and the replica knows the shapes of earlier events.
    """
    if is_debezium(settings):
        for shape in replica.recorded_shapes():
            layouts.add(shape.version, shape)
    else:
        read_shapes(asker, settings, layouts, skips)


def new_source_reader(
    context: ReaderContext, applied_lsn: int, consumer: Any, asker: Any, vitals: Vitals
) -> SourceReader:
    """Return the reader. ``applied_lsn``: the lsn of the replica's row."""
    if is_debezium(context.settings):
        return DebeziumReader(context, applied_lsn, consumer, asker, vitals)
    return ReaderThread(context, consumer, asker, vitals)
