"""Remember the newest lsn of each key, so that a late event does not overwrite a newer event.

A relay that takes over sends the predecessor's last claims again. The repeated events are *late*: the lsns are smaller
than lsns released before. If partitions were added to the topic meanwhile, the newer event of a key may be in another
partition than the late event.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter

from rowcast.consumer.events.change import TRUNCATE_KEY, Change
from rowcast.consumer.events.position import Partition, Position
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.earlier_events import read_newest
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.shared.config.settings import Settings

_log = logging.getLogger("rowcast.worker")

_key_and_lsn = itemgetter(Change._fields.index("key"), Change._fields.index("lsn"))


class AppliedKeys:
    """Remember the released events of the topics with several partitions.

    ``positions``: the replica's. ``size``: the number of keys to remember for each topic, or up to twice as many.
    Events missing in memory, released before this run or long ago, are read from Kafka again.
    """

    def __init__(
        self, settings: Settings, layouts: RowLayouts, positions: Mapping[Partition, Position], size: int
    ) -> None:
        self._settings = settings
        self._layouts = layouts
        self._size = size
        self._topics: dict[str, _Topic] = {}
        self.start_at(positions.items())

    def start_at(self, positions: Collection[tuple[Partition, Position]]) -> None:
        """Forget everything, because the topics are read from these positions."""
        self._topics.clear()
        for (topic, _), position in positions:
            of_topic = self._topics.setdefault(topic, _Topic())
            of_topic.forget_up_to(position.lsn)

    def released_lsn(self, topic: str) -> int:
        """Return the greatest released lsn. A released event up to this lsn comes late."""
        return self._topics.setdefault(topic, _Topic()).released_lsn

    def note(self, topic: str, changes: Sequence[Change]) -> None:
        """Remember released events. ``changes``: in the order of their lsns."""
        of_topic = self._topics.setdefault(topic, _Topic())
        of_topic.newest.update(map(_key_and_lsn, changes))
        of_topic.released_lsn = max(of_topic.released_lsn, changes[-1].lsn)
        if len(of_topic.newest) > self._size:
            of_topic.forgotten_lsn, of_topic.turned_lsn = of_topic.turned_lsn, of_topic.released_lsn
            of_topic.before, of_topic.newest = of_topic.newest, {}

    def skip(self, topic: str, lsn: int) -> None:
        """Note that events up to this lsn were released and not remembered, while the topic had a single partition."""
        self._topics.setdefault(topic, _Topic()).forget_up_to(lsn)

    def is_outdated(self, topic: str, change: Change, streams: Sequence[PartitionStream]) -> bool:
        """Return whether a newer event of the key was released. ``streams``: all of the topic."""
        of_topic = self._topics[topic]
        if change.lsn <= of_topic.forgotten_lsn:
            self._read_again(of_topic, change, streams)
        known = (of_topic.newest, of_topic.before, of_topic.read_again)
        # A truncate is newer than every earlier event of any key.
        return any(max(lsns.get(change.key, 0), lsns.get(TRUNCATE_KEY, 0)) > change.lsn for lsns in known)

    def _read_again(self, of_topic: _Topic, change: Change, streams: Sequence[PartitionStream]) -> None:
        of_topic.read_again, is_complete = read_newest(self._settings, self._layouts, streams, change.lsn)
        of_topic.forgotten_lsn = change.lsn - 1
        if not is_complete:
            _log.warning(
                "topic %s has an event (partition %d, offset %d) that was sent again so late that the worker does not "
                "know whether the replica has a newer one. Run rowcast verify when the replica is consistent",
                *change.partition,
                change.offset,
            )


class _Topic:
    """Hold the known keys of a topic.

    ``forgotten_lsn``: nothing is known of the keys of events up to this lsn. ``turned_lsn``: the lsn at the end of
    ``before``.
    """

    __slots__ = ("before", "forgotten_lsn", "newest", "read_again", "released_lsn", "turned_lsn")

    def __init__(self) -> None:
        self.released_lsn = self.forgotten_lsn = self.turned_lsn = 0
        self.newest: dict[bytes, int] = {}
        self.before: dict[bytes, int] = {}
        self.read_again: dict[bytes, int] = {}

    def forget_up_to(self, lsn: int) -> None:
        self.released_lsn = self.forgotten_lsn = self.turned_lsn = max(self.released_lsn, lsn)
