"""Run the due snapshot chunk by chunk. ``docs/decisions/0015-snapshots.md`` says why no row is stale."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.producer.outbox.snapshot_requests import SnapshotRequest, SnapshotRequests
from rowcast.producer.relay.claims.background_read import read_in_background
from rowcast.producer.relay.claims.claim_table import ClaimedChunk
from rowcast.producer.relay.claims.epoch import Epoch
from rowcast.producer.relay.messages.connect_images import ConnectImages
from rowcast.producer.relay.snapshots.chunk_reader import Chunk, ChunkReader
from rowcast.shared.database.driver_errors import is_transient
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.tables.shape_store import newest_shape

_log = logging.getLogger("rowcast.relay")

_POLL_REQUESTS_S = 0.25


class SnapshotRunner:
    """Read the chunks of snapshots for one leader. ``images``: encoder of row images for Kafka Connect, or None."""

    def __init__(self, epoch: Epoch, images: ConnectImages | None = None) -> None:
        self._settings = epoch.relay_settings
        self._settings_of = epoch.settings.table
        self._heartbeat = epoch.heartbeat
        self._connections = epoch.connections
        self._images = images
        self._requests = SnapshotRequests(epoch.tables)
        self._polled_at = 0.0
        self._due: SnapshotRequest | None = None
        self._reader: ChunkReader | None = None
        self._last_key: str | None = None
        self._reached: dict[int, str | None] = {}
        self._ended: set[int] = set()

    def due(self) -> SnapshotRequest | None:
        """Return the snapshot to continue, or None. Requests are read every 0.25 s, so a pause may come late."""
        now = time.monotonic()
        if now - self._polled_at >= _POLL_REQUESTS_S:
            self._polled_at = now
            self._poll_requests()
        return self._due

    def _poll_requests(self) -> None:
        if self._settings.snapshot != "never" and (
            wanting := self._requests.tables_to_snapshot(self._connections.reader)
        ):
            with self._connections.writer.begin():
                self._requests.request(self._connections.writer, wanting, chunk_rows=self._settings.chunk_rows)
        due = self._requests.next(self._connections.reader, self._ended)
        if due is not None and (self._due is None or due.id != self._due.id):
            # Before a pause this leader may have read further than Kafka has committed.
            self._last_key = self._reached.get(due.id, due.last_key)
            self._reader = self._new_reader(due)
            _log.info("snapshot %d of %s: %s", due.id, due.table, "continuing" if due.rows_read else "beginning")
        self._due = None if self._reader is None else due

    def _new_reader(self, due: SnapshotRequest) -> ChunkReader | None:
        try:
            return self._reader_for(self._connections.reader, due)
        except (ConfigurationError, DataError) as error:
            self._fail(due, str(error))
            return None

    def _reader_for(self, connection: Connection, due: SnapshotRequest) -> ChunkReader:
        """Return a reader for the newest shape of the table that the connection sees."""
        shape = newest_shape(connection, due.table)
        if shape is None:
            raise ConfigurationError(f"the table {due.table} is not captured")
        if self._reader is not None and self._due is not None and self._due.id == due.id:
            if shape == self._reader.shape:
                return self._reader
            if shape.primary_key != self._reader.shape.primary_key:
                raise ConfigurationError("the primary key of the table has changed since the snapshot began")
        return ChunkReader(connection.dialect, shape, due.condition, self._settings_of(shape))

    def read_chunk(self, connection: Connection) -> Chunk | None:
        """Return the next chunk, read in the connection's transaction.

        Returns None if the chunk cannot be read. Then the snapshot has failed, and the request holds the reason. Raises
        the database's transient errors.
        """
        due = self._due
        assert due is not None
        try:
            # The shape is checked in the same transaction. After events of a newer shape, rows of an older shape would
            # remove the values of added columns.
            self._reader = reader = self._reader_for(connection, due)
            # Large rows or an expensive condition may take longer than a lease.
            rows = read_in_background(
                lambda: reader.read(connection, self._last_key, due.chunk_rows), self._heartbeat.renew_lease
            )
            return rows if self._images is None else self._encode(rows, self._images)
        except exc.DBAPIError as error:
            if is_transient(error):
                raise
            self._fail(due, first_line(error))
        except (ConfigurationError, DataError) as error:
            self._fail(due, str(error))
        return None

    @staticmethod
    def _encode(rows: Chunk, images: ConnectImages) -> Chunk:
        changes = images.encode_changes(rows.changes)
        largest = max((len(key) + len(after or b"") for _, key, after, _ in changes), default=0)
        return replace(rows, changes=changes, largest=largest)

    def begin_claim(self, chunk: Chunk) -> ClaimedChunk:
        """Return the chunk's part of the claim. From here on the next chunk is due."""
        assert self._due is not None
        due, self._last_key = self._due, chunk.last_key
        self._reached[due.id] = chunk.last_key
        if chunk.last_key is None:
            self._end(due)
        return ClaimedChunk(due.id, chunk.last_key, len(chunk.changes))

    def fail_due(self, reason: str) -> None:
        """Mark the due snapshot as failed, because its last chunk cannot be published."""
        assert self._due is not None
        self._fail(self._due, reason)

    def _end(self, due: SnapshotRequest) -> None:
        self._ended.add(due.id)
        self._due = self._reader = None
        self._polled_at = 0.0

    def _fail(self, due: SnapshotRequest, reason: str) -> None:
        _log.warning("snapshot %d of %s has failed: %s", due.id, due.table, reason)
        with self._connections.writer.begin():
            self._requests.fail(self._connections.writer, due.id, reason)
        self._end(due)
