"""The error for a topic whose keys have moved between partitions while a group of workers reads it."""

from __future__ import annotations

from rowcast.consumer.events.rebuild_hint import REBUILD
from rowcast.shared.errors import DataError


def partitions_added(topic: str, before: int, now: int) -> DataError:
    """Return the error for a topic whose keys have moved between partitions."""
    return DataError(
        f"topic {topic} has {now} partitions now, and had {before} before. The newer events of a key may be in another "
        "partition than its older events, and workers that read the partitions by themselves do not know their order. "
        f"{REBUILD}"
    )
