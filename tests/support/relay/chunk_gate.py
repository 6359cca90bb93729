"""Stop a relay before each chunk of a snapshot until the test lets the read through."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from rowcast.producer.relay.snapshots import runner
from rowcast.producer.relay.snapshots.chunk_reader import Chunk, ChunkReader
from support.relay.threads import wait_until


class Gate:
    """Wait before each read of a chunk.

    ``come``: the number of arrived reads. ``failed``: the number of failed reads. ``before``: called once, with the
    connection of the next read.
    """

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
        # The relay looks for snapshot requests before each chunk.
        monkeypatch.setattr(runner, "_POLL_REQUESTS_S", 0)

    def wait_for(self, come: int) -> None:
        """Wait until ``come`` reads have arrived in total, and no more."""
        wait_until(lambda: self.come >= come)
        assert self.come == come

    def let_through(self, reads: int = 1) -> None:
        """Let the given number of reads pass, including later reads."""
        for _ in range(reads):
            self._through.release()
