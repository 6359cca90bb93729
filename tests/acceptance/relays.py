"""Several relays of one source, one of which leads, and a supervisor that starts those anew that are gone."""

from __future__ import annotations

import sqlalchemy as sa

from acceptance.pipeline import Command, Pipeline, wait_for

_LEASE = sa.text("SELECT owner, epoch, next_lsn, published_lsn FROM rowcast_lease WHERE source = :source")


class Relays:
    """``count`` processes. None is running before ``start_missing``."""

    def __init__(self, pipeline: Pipeline, count: int) -> None:
        self.running: list[Command] = []
        self._pipeline = pipeline
        self._count = count

    def start_missing(self) -> None:
        """As many as there shall be."""
        while len(self.running) < self._count:
            self.running.append(self._pipeline.start("relay"))

    def start_again(self) -> None:
        """As any supervisor does, what was just starting when a server went away."""
        self.running = [relay for relay in self.running if not self._pipeline.ended_at_the_start(relay)]
        self.start_missing()

    def kill(self, relay: Command) -> None:
        """SIGKILL; another takes its place."""
        self.running.remove(relay)
        self._pipeline.kill(relay)
        self.start_missing()

    def stop(self, relay: Command) -> None:
        """SIGTERM, and it ends in good order; another takes its place."""
        self.running.remove(relay)
        self._pipeline.stop(relay)
        self.start_missing()

    def end(self) -> None:
        """SIGKILL: one that is just starting does not know yet how to stop in good order."""
        for relay in self.running:
            self._pipeline.kill(relay)
        self.running = []

    def leader(self) -> Command:
        """The one that holds the lease, or took it last; waits while that is one that is gone."""
        return self.leader_and_epoch()[0]

    def leader_and_epoch(self) -> tuple[Command, int]:
        """The same, and since which epoch."""
        found: list[tuple[Command, int]] = []

        def look() -> bool:
            self.start_again()
            owner, epoch, *_ = self._lease()
            found.extend((relay, epoch) for relay in self.running if f":{relay.pid}:" in owner)
            return bool(found)

        wait_for("a relay that runs holds the lease", look)
        return found[0]

    def epoch(self) -> int:
        """Rises by one with each leader; 0 before the first."""
        return self._lease()[1]

    def next_lsn(self) -> int:
        """The next to be given out."""
        return self._lease()[2]

    def published_lsn(self) -> int:
        """The highest that Kafka has committed and that is deleted."""
        return self._lease()[3]

    def _lease(self) -> tuple[str, int, int, int]:
        with self._pipeline.primary.connect() as connection:
            row = connection.execute(_LEASE, {"source": self._pipeline.source}).one_or_none()
        return (row.owner or "", row.epoch, row.next_lsn, row.published_lsn) if row is not None else ("", 0, 1, 0)
