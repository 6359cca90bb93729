"""Remove the rows that have changed from a cache such as Redis, so that nobody reads an old row for long.

    [sinks.cache]
    use = "cache:redis_cache"
    options = { url = "redis://localhost:6379/0" }

    rowcast sink cache

Removing a key twice does no harm, so the checkpoint may come after the changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rowcast.consumer import RowChange, SinkBatch

_CHECKPOINT = "rowcast:checkpoint"


class CacheSink:
    """A sink that deletes the key ``table:id`` of each changed row. ``client``: has get, set, delete, as Redis has."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def checkpoint(self) -> bytes | None:
        """Return what ``apply`` stored last."""
        stored: bytes | None = self._client.get(_CHECKPOINT)
        return stored

    def prepare(self, shapes: Iterable[object]) -> None:
        """Need nothing."""

    def apply(self, batch: SinkBatch) -> None:
        """Delete the keys, and store the checkpoint afterwards."""
        # While the sink loads, the batches hold every row. A cache that was filled before may hold old rows.
        if keys := {cache_key(change) for change in batch.changes()}:
            self._client.delete(*keys)
        self._client.set(_CHECKPOINT, batch.checkpoint)


def cache_key(change: RowChange) -> str:
    """Return the key under which the application caches a row."""
    return ":".join([change.table, *map(str, change.key.values())])


def redis_cache(url: str) -> CacheSink:
    """Return the sink for a Redis server. It needs the package ``redis``."""
    import redis

    return CacheSink(redis.Redis.from_url(url))
