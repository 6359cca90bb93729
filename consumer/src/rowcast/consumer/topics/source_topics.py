"""Read the table topics of a source without a consumer group, so that no worker notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.topic_metadata import (
    new_viewer,
    offsets_since,
    partition_ends,
    partitions_of,
    read_shapes,
)
from rowcast.consumer.topics.messages_between import is_partition_end, messages_between
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.kafka.topic_names import schema_topic

_POLL_S = 0.2
_BATCH = 1_000
# A new table or a new partition shows up after this time.
_LOOK_AGAIN_S = 5.0


class SourceTopics:
    """The topics of the tables that match ``tables``, with the topics' partitions.

    A pattern without a dot is the name of a table in any schema.

    Raise ConfigurationError if the source has published no matching table. Raise UnreachableError.
    """

    def __init__(self, consumer: Any, settings: Settings, tables: Collection[str] = ("*",)) -> None:
        self._consumer = consumer
        self._settings = settings
        self._patterns = tuple(pattern if "." in pattern or pattern == "*" else f"*.{pattern}" for pattern in tables)
        self._topics: dict[str, str] = {}
        self._find_topics()
        if not self._topics:
            raise self._no_table(", ".join(tables))

    def _no_table(self, asked: str) -> ConfigurationError:
        """Return the error to raise if no published table matches."""
        layouts = RowLayouts(("*",))
        read_shapes(self._consumer, self._settings, layouts, lenient=True)
        source = self._settings.source
        if names := sorted(shape.full_name for shape in layouts.latest_shapes()):
            return ConfigurationError(
                f"source {source!r} has published no table that matches {asked}. Its tables are {', '.join(names)}."
            )
        return ConfigurationError(
            f"source {source!r} has published no table: topic {schema_topic(source)} names none. Start "
            "`rowcast relay`, and let the application write."
        )

    def _find_topics(self) -> None:
        layouts = RowLayouts(self._patterns)
        read_shapes(self._consumer, self._settings, layouts, lenient=True)
        for shape in layouts.latest_shapes():
            self._topics[shape.full_name] = self._settings.topic_of(shape.schema, shape.name)

    @property
    def topics(self) -> Mapping[str, str]:
        """Return the topic of each table ``schema.table``."""
        return self._topics

    def ends(self) -> dict[Partition, tuple[int, int]]:
        """Return the first offset of each partition, and the offset after the last."""
        found = partitions_of(self._consumer, set(self._topics.values()))
        return partition_ends(self._consumer, [(topic, n) for topic, numbers in found.items() for n in numbers])

    def since(self, ms: int) -> dict[Partition, int]:
        """Return the offset of the first record of each partition that was published at ``ms`` or later."""
        return offsets_since(self._consumer, list(self.ends()), ms)

    def up_to(self, ends: Mapping[Partition, int], starts: Mapping[Partition, int]) -> Iterator[Any]:
        """Yield the messages of each partition from start to end. Raise UnreachableError."""
        return messages_between(self._consumer, self._settings, starts, ends)

    def from_now_on(self, starts: Mapping[Partition, int], stop: threading.Event) -> Iterator[Any]:
        """Yield the messages from the starts on, and those of new partitions and tables, until ``stop`` is set."""
        known = set(starts)
        self._assign(starts.items())
        looked = time.monotonic()
        while not stop.is_set():
            for message in self._consumer.consume(_BATCH, _POLL_S):
                if message.error() is None:
                    yield message
                else:
                    is_partition_end(message, self._settings)
            if time.monotonic() - looked > _LOOK_AGAIN_S:
                self._find_topics()
                new = {place: first for place, (first, _) in self.ends().items() if place not in known}
                known |= new.keys()
                self._assign(new.items())
                looked = time.monotonic()

    def _assign(self, starts: Iterable[tuple[Partition, int]]) -> None:
        from confluent_kafka import TopicPartition

        assigned = [TopicPartition(*place, offset) for place, offset in starts]
        if assigned:
            self._consumer.incremental_assign(assigned)


@contextmanager
def source_topics(
    settings: Settings, tables: Collection[str] = ("*",), *, follows: bool = False
) -> Iterator[SourceTopics]:
    """Open the topics of the tables that match, for the block. See ``SourceTopics``.

    ``follows``: for ``from_now_on``.
    """
    with new_viewer(settings, follows=follows) as consumer:
        yield SourceTopics(consumer, settings, tables)
