"""The snapshot that is due, one chunk at a time. Why no row is too old: ``docs/decisions/0015-snapshots.md``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.producer.outbox import OutboxTables
from rowcast.producer.relay.chunks import Chunk, ChunkReader
from rowcast.producer.relay.claims import ClaimedChunk
from rowcast.producer.relay.connect_images import ConnectImages
from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.passing import is_passing
from rowcast.producer.relay.patience import patiently
from rowcast.producer.snapshots import Snapshot, Snapshots
from rowcast.shared.config import RelaySettings
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.shapes import TableShape
from rowcast.shared.table_settings import TableSettings

_log = logging.getLogger("rowcast.relay")

_LOOK_S = 0.25
"""Between looks at what is asked for."""


class Snapshotting:
    """One leader's. ``settings_of`` knows the salts of a table's hashes; ``images`` brings rows into their form."""

    def __init__(
        self,
        connections: Connections,
        tables: OutboxTables,
        settings: RelaySettings,
        settings_of: Callable[[TableShape], TableSettings],
        images: ConnectImages | None = None,
    ) -> None:
        self._settings = settings
        self._images = images
        self._connections = connections
        self._requests = Snapshots(tables)
        self._settings_of = settings_of
        self._looked_at = 0.0
        self._due: Snapshot | None = None
        self._reader: ChunkReader | None = None
        self._last_key: str | None = None
        self._reached: dict[int, str | None] = {}
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
        if self._settings.snapshot != "when_needed":
            return
        reader = self._connections.reader
        # Every relay that finds Kafka so asks, until something is committed there.
        if names := sorted(self._requests.shapes(reader).keys() - set(self._requests.begun_anew(reader))):
            with self._connections.writer.begin():
                self._requests.request(self._connections.writer, names, chunk_rows=self._settings.chunk_rows)

    def _look(self) -> None:
        if self._settings.snapshot != "never" and (wanting := self._requests.wanting(self._connections.reader)):
            with self._connections.writer.begin():
                self._requests.request(self._connections.writer, wanting, chunk_rows=self._settings.chunk_rows)
        due = self._requests.next(self._connections.reader, self._ended)
        if due is not None and (self._due is None or due.id != self._due.id):
            # Kafka may not have committed yet what was read before it was paused.
            self._last_key = self._reached.get(due.id, due.last_key)
            self._reader = self._new_reader(due)
            _log.info("snapshot %d of %s: %s", due.id, due.table, "going on" if due.rows_read else "beginning")
        self._due = None if self._reader is None else due

    def _new_reader(self, due: Snapshot) -> ChunkReader | None:
        try:
            return self._reader_at(self._connections.reader, due)
        except (ConfigurationError, DataError) as error:
            self._fail(due, str(error))
            return None

    def _reader_at(self, connection: Connection, due: Snapshot) -> ChunkReader:
        """For the table's shape as the connection sees it."""
        shape = self._requests.newest_shape(connection, due.table)
        if shape is None:
            raise ConfigurationError(f"the table {due.table} is not captured")
        if self._reader is not None and self._due is not None and self._due.id == due.id:
            if shape == self._reader.shape:
                return self._reader
            if shape.primary_key != self._reader.shape.primary_key:
                raise ConfigurationError("the primary key is another one than when it began")
        return ChunkReader(connection.dialect, shape, due.condition, self._settings_of(shape))

    def read(self, connection: Connection, meanwhile: Callable[[], None]) -> Chunk | None:
        """The next chunk, as the connection's transaction sees it; None if it cannot be read: then the snapshot has
        failed, and says why. ``meanwhile`` is called now and then."""
        due = self._due
        assert due is not None
        try:
            # Behind events of a newer shape, rows of an older one would take back what it has added.
            self._reader = reader = self._reader_at(connection, due)
            # Large rows, or a dear condition, may take longer than a lease.
            rows = patiently(lambda: reader.read(connection, self._last_key, due.chunk_rows), meanwhile)
            return rows if self._images is None else self._in_their_form(rows, self._images)
        except exc.DBAPIError as error:
            if is_passing(error):
                raise
            self._fail(due, str(error.orig).strip().splitlines()[0])
        except (ConfigurationError, DataError) as error:
            self._fail(due, str(error))
        return None

    @staticmethod
    def _in_their_form(rows: Chunk, images: ConnectImages) -> Chunk:
        changes = images.changes(rows.changes)
        largest = max((len(key) + len(after or b"") for _, key, after, _ in changes), default=0)
        return replace(rows, changes=changes, largest=largest)

    def claimed(self, chunk: Chunk) -> ClaimedChunk:
        """What is to be written down with the claim of the chunk; from here on the next one is due."""
        assert self._due is not None
        due, self._last_key = self._due, chunk.last_key
        self._reached[due.id] = chunk.last_key
        if chunk.last_key is None:
            self._end(due)
        return ClaimedChunk(due.id, chunk.last_key, len(chunk.changes))

    def give_up(self, reason: str) -> None:
        """The chunk that was read cannot be published."""
        assert self._due is not None
        self._fail(self._due, reason)

    def _end(self, due: Snapshot) -> None:
        self._ended.add(due.id)
        self._due = self._reader = None
        self._looked_at = 0.0

    def _fail(self, due: Snapshot, reason: str) -> None:
        _log.warning("snapshot %d of %s cannot be made: %s", due.id, due.table, reason)
        with self._connections.writer.begin():
            self._requests.fail(self._connections.writer, due.id, reason)
        self._end(due)
