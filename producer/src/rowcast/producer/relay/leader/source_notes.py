"""Know what the schema topic says about the source besides shapes: the timeline, and the tables that lack rows."""

from __future__ import annotations

import time

from rowcast.producer.outbox.snapshot_requests import SnapshotRequests
from rowcast.producer.relay.claims.epoch import Epoch
from rowcast.producer.relay.claims.lease import Lease

_POLL_S = 0.25


class SourceNotes:
    """Hold the notes of one leader.

    A table *lacks rows* until Kafka has committed the last chunk of its initial snapshot. Workers show a replica as
    loading until no table lacks rows.
    """

    def __init__(self, epoch: Epoch) -> None:
        self._connections = epoch.connections
        self._requests = SnapshotRequests(epoch.tables)
        self._snapshots_by_itself = epoch.relay_settings.snapshot != "never"
        self._timeline: dict[str, object] = {}
        self._lacking: set[str] = set()
        self._polled_at = 0.0

    def follow(self, lease: Lease) -> None:
        """Take the timeline from the lease."""
        # Without members for the first timeline, messages look like those of earlier versions.
        if lease.timeline > 1:
            self._timeline = {"timeline": lease.timeline, "timeline_lsn": lease.timeline_lsn}

    def refresh(self) -> None:
        """Read which tables lack rows, before shapes are published."""
        self._lacking = self._read()

    def of(self, table: str) -> dict[str, object]:
        """Return the members to add to the shape of the table with this full name."""
        return {**self._timeline, "snapshot": "pending"} if table in self._lacking else dict(self._timeline)

    def completed(self, *, at_once: bool = False) -> set[str]:
        """Return the tables that have lacked rows when shapes were published, and lack none now.

        Reads the database every 0.25 s, or ``at_once``.
        """
        now = time.monotonic()
        if not self._lacking or (not at_once and now - self._polled_at < _POLL_S):
            return set()
        self._polled_at = now
        return self._lacking - self._read()

    def _read(self) -> set[str]:
        return self._requests.tables_lacking_rows(self._connections.reader, by_request=not self._snapshots_by_itself)
