"""Run several relays of a source, and supervise the processes.

A single relay leads. The supervisor replaces each ended relay.
"""

from __future__ import annotations

import sqlalchemy as sa

from support.pipeline.pipeline import Command, Pipeline, wait_for

_LEASE = sa.text("SELECT owner, epoch, next_lsn, published_lsn FROM rowcast_lease WHERE source = :source")


class Relays:
    """Hold ``count`` relay processes. None is running before ``start_missing``."""

    def __init__(self, pipeline: Pipeline, count: int) -> None:
        self.running: list[Command] = []
        self._pipeline = pipeline
        self._count = count

    def start_missing(self) -> None:
        """Start relays until ``count`` relays are running."""
        while len(self.running) < self._count:
            self.running.append(self._pipeline.start("relay"))

    def start_again(self) -> None:
        """Replace relays that could not reach a server at their start, as any supervisor does."""
        self.running = [relay for relay in self.running if not self._pipeline.ended_at_the_start(relay)]
        self.start_missing()

    def kill(self, relay: Command) -> None:
        """Send SIGKILL to a relay, and start a new relay."""
        self.running.remove(relay)
        if not self._pipeline.ended_at_the_start(relay):
            self._pipeline.kill(relay)
        self.start_missing()

    def stop(self, relay: Command) -> None:
        """Stop a relay by SIGTERM, and start a new relay."""
        self.running.remove(relay)
        self._pipeline.stop(relay)
        self.start_missing()

    def end(self) -> None:
        """Send SIGKILL to all relays, because a starting relay does not handle SIGTERM yet."""
        for relay in self.running:
            if not self._pipeline.ended_at_the_start(relay):
                self._pipeline.kill(relay)
        self.running = []

    def leader(self) -> Command:
        """Return the running relay that holds the lease or took the lease last.

        Wait while the owner of the lease is not running.
        """
        return self.leader_and_epoch()[0]

    def leader_and_epoch(self) -> tuple[Command, int]:
        """Return the leader like ``leader``, and the epoch of its lease."""
        found: list[tuple[Command, int]] = []

        def look() -> bool:
            self.start_again()
            owner, epoch, *_ = self._lease()
            found.extend((relay, epoch) for relay in self.running if f":{relay.pid}:" in owner)
            return bool(found)

        wait_for("a relay that runs holds the lease", look)
        return found[0]

    def epoch(self) -> int:
        """Return the epoch of the lease, or 0 before the first leader. Each leader adds 1."""
        return self._lease()[1]

    def next_lsn(self) -> int:
        """Return the lsn that the next claim begins with."""
        return self._lease()[2]

    def published_lsn(self) -> int:
        """Return the highest lsn that Kafka has committed and whose outbox rows are deleted."""
        return self._lease()[3]

    def _lease(self) -> tuple[str, int, int, int]:
        with self._pipeline.primary.connect() as connection:
            row = connection.execute(_LEASE, {"source": self._pipeline.source}).one_or_none()
        return (row.owner or "", row.epoch, row.next_lsn, row.published_lsn) if row is not None else ("", 0, 1, 0)
