"""The snapshot that is due, one chunk at a time. Why no row is too old: ``docs/decisions/0015-snapshots.md``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.producer.outbox import OutboxTables
from rowcast.producer.relay.chunks import Chunk, ChunkReader
from rowcast.producer.relay.claims import ClaimedChunk
from rowcast.producer.relay.connections import Connections
from rowcast.producer.snapshots import Snapshot, Snapshots
from rowcast.shared.config import RelaySettings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.shapes import TableShape
from rowcast.shared.table_settings import TableSettings

_log = logging.getLogger("rowcast.relay")

_LOOK_S = 0.25
"""Between looks at what is asked for."""


class Snapshotting:
    """One leader's. ``settings_of`` knows the salts of a table's hashes."""

    def __init__(
        self,
        connections: Connections,
        tables: OutboxTables,
        settings: RelaySettings,
        settings_of: Callable[[TableShape], TableSettings],
    ) -> None:
        self._settings = settings
        self._connections = connections
        self._requests = Snapshots(tables)
        self._settings_of = settings_of
        self._looked_at = 0.0
        self._due: Snapshot | None = None
        self._reader: ChunkReader | None = None
        self._last_key: str | None = None
        self._ended: set[int] = set()

    def due(self) -> Snapshot | None:
        """The snapshot to go on with; it may have been paused a moment ago."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._look()
        return self._due

    def kafka_has_lost(self) -> None:
        """Kafka does not have what it had once."""
        if self._settings.snapshot == "when_needed":
            with self._connections.writer.begin():
                self._requests.request(self._connections.writer, (), chunk_rows=self._settings.chunk_rows)

    def _look(self) -> None:
        if self._settings.snapshot != "never" and (wanting := self._requests.wanting(self._connections.reader)):
            with self._connections.writer.begin():
                self._requests.request(self._connections.writer, wanting, chunk_rows=self._settings.chunk_rows)
        due = self._requests.next(self._connections.reader, self._ended)
        if due is not None and (self._due is None or due.id != self._due.id):
            self._last_key = due.last_key
            self._reader = self._new_reader(due)
            _log.info("snapshot %d of %s: %s", due.id, due.table, "going on" if due.rows_read else "beginning")
        self._due = None if self._reader is None else due

    def _new_reader(self, due: Snapshot) -> ChunkReader | None:
        reader = self._connections.reader
        shape = self._requests.shapes(reader).get(due.table)
        if shape is None:
            self._fail(due, f"the table {due.table} is not captured")
            return None
        try:
            settings = self._settings_of(shape)
            return ChunkReader(reader.dialect, shape, shape.version, due.condition, settings)
        except ConfigurationError as error:
            self._fail(due, str(error))
            return None

    def read(self, connection: Connection) -> Chunk | None:
        """The next chunk, as the connection's transaction sees it; None if it cannot be read: then the snapshot has
        failed, and says why."""
        assert self._due is not None
        assert self._reader is not None
        try:
            return self._reader.read(connection, self._last_key, self._due.chunk_rows)
        except exc.DBAPIError as error:
            if error.connection_invalidated or isinstance(error, exc.OperationalError):
                raise
            self._fail(self._due, str(error.orig).strip().splitlines()[0])
        except TypeError as error:
            self._fail(self._due, f"it cannot be resumed behind {error}")
        self._due = None
        return None

    def claimed(self, chunk: Chunk) -> ClaimedChunk:
        """What is to be written down with the claim of the chunk; from here on the next one is due."""
        assert self._due is not None
        due, self._last_key = self._due, chunk.last_key
        if chunk.last_key is None:
            self._end(due)
        return ClaimedChunk(due.id, chunk.last_key, len(chunk.changes))

    def _end(self, due: Snapshot) -> None:
        self._ended.add(due.id)
        self._due = self._reader = None
        self._looked_at = 0.0

    def _fail(self, due: Snapshot, reason: str) -> None:
        _log.warning("snapshot %d of %s cannot be made: %s", due.id, due.table, reason)
        with self._connections.writer.begin():
            self._requests.fail(self._connections.writer, due.id, reason)
        self._end(due)
