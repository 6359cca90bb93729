"""The settings and the starting point of one reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.share import Share
from rowcast.consumer.reading.skips import Skips
from rowcast.consumer.reading.topic_ids import TopicIds
from rowcast.shared.config.settings import Settings
from rowcast.shared.tables.shape import TableShape


@dataclass(frozen=True, slots=True)
class ReaderContext:
    """Everything a reader needs to start.

    ``positions`` are the replica's. ``loading``: the replica loads, so events go by key until the cutover.
    ``last_transaction``: the id of the transaction last applied. ``deletes_known_ms``: the replica knows all deletes
    before this time, 0 if the time is not known. ``once``: stop at the topics' ends at the time of the start.
    ``replica``: the name of the replica, for messages. ``skips``: the messages and transactions to leave out.
    ``topic_ids``: the ids of the topics to which ``positions`` belong. ``timeline``: the timeline of the replica.
    ``until_lsn``: leave out the messages of greater lsns. The reader then reads committed messages. ``first_lsns``: the
    lsn before which events are left out, by topic. ``ignores_truncates``: an event that empties a table has no effect.
    ``share``: read only these partitions of the tables' topics, by key and up to their ends, and leave the cutover to a
    later reader. None: read all. ``sets_unread_aside``: an event that cannot be read does not stop the
    reader.
    """

    settings: Settings
    layouts: RowLayouts
    positions: Mapping[Partition, Position] = field(default_factory=dict)
    loading: bool = False
    last_transaction: str | None = None
    deletes_known_ms: int = 0
    batch_events: int = 20_000
    buffer_events: int = 200_000
    once: bool = False
    replica: str = "REPLICA"
    skips: Skips = field(default_factory=Skips)
    topic_ids: TopicIds = field(default_factory=lambda: TopicIds({}, None))
    timeline: int = 1
    until_lsn: int | None = None
    first_lsns: Mapping[str, int] = field(default_factory=dict)
    share: Share | None = None
    ignores_truncates: bool = False
    sets_unread_aside: bool = False

    def renamed_topics(self) -> Mapping[str, str]:
        """Return the topic with the later events of a renamed table, by the topic with the earlier events."""
        shapes = {shape.full_name: shape for shape in self.layouts.latest_shapes()} if self.layouts.renamed else {}
        return {
            self._topic_of(shapes[former]): self._topic_of(shapes[name])
            for former, name in self.layouts.renamed.items()
            if former in shapes and name in shapes
        }

    def _topic_of(self, shape: TableShape) -> str:
        return self.settings.topic_of(shape.schema, shape.name)
