"""A gate before each chunk's rows: a relay that reads a snapshot waits there until it is let through."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from integration.relay_threads import wait_until
from rowcast.producer.relay import snapshotting
from rowcast.producer.relay.chunks import Chunk, ChunkReader


class Gate:
    """``come``: how many reads have come to it. ``before``: called with the next read's connection, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.come = self.failed = 0
        self.before: Callable[[sa.Connection], None] | None = None
        self._through = threading.Semaphore(0)
        read = ChunkReader.read

        def gated(this: ChunkReader, connection: sa.Connection, after: str | None, limit: int) -> Chunk:
            self.come += 1
            assert self._through.acquire(timeout=120)
            try:
                before, self.before = self.before, None
                if before is not None:
                    before(connection)
                return read(this, connection, after, limit)
            except BaseException:
                self.failed += 1
                raise

        monkeypatch.setattr(ChunkReader, "read", gated)
        # What is asked for is looked at before each.
        monkeypatch.setattr(snapshotting, "_LOOK_S", 0)

    def wait_for(self, come: int) -> None:
        """Until so many have come."""
        wait_until(lambda: self.come >= come)
        assert self.come == come

    def let_through(self, reads: int = 1) -> None:
        """That wait, or are to come."""
        for _ in range(reads):
            self._through.release()
