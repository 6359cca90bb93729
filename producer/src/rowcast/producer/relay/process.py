"""A relay: stands by until the lease is free, leads until stopped or fenced, comes back after any passing fault."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Engine

from rowcast.producer.outbox import OutboxTables, missing_of, outbox_tables, unknown_of
from rowcast.producer.relay.backoff import Backoff
from rowcast.producer.relay.connections import Connections
from rowcast.producer.relay.lease import Destination, LeaseRow, new_owner
from rowcast.producer.relay.progress import OnProgress, RelayProgress
from rowcast.producer.relay.stalls import Stalls
from rowcast.producer.relay.vacuuming import Vacuuming
from rowcast.shared import kafka
from rowcast.shared.config import Settings
from rowcast.shared.databases import reach
from rowcast.shared.errors import ConfigurationError, FencedError, RetriableError, UnreachableError
from rowcast.shared.logs import about_source

_log = logging.getLogger("rowcast.relay")

_BUSY_S = 0.1
"""Where something came within this time, more is expected soon: the outbox is looked at as often as it may be."""

_STOPPING_S = 10.0
"""A stop waits at most this long for Kafka to take the batch in hand; after that the next relay publishes it again."""


class _StoppedError(Exception):
    """Asked to stop while Kafka did not answer."""


class Relay:
    """Publishes one source's outbox. Not for several threads, except ``wake``.

    ``patient``: a server that does not answer at the first start is waited for, too. Raises ConfigurationError if no
    Kafka is configured, MissingExtraError if its client is not installed.
    """

    def __init__(
        self, settings: Settings, engine: Engine, on_progress: OnProgress | None = None, *, patient: bool = False
    ) -> None:
        self._settings = settings
        self._properties = settings.require_kafka()
        kafka.require_client("relay")
        self._engine = engine
        self._tables: OutboxTables = outbox_tables(sa.MetaData())
        self._owner = new_owner()
        self._on_progress = on_progress
        self._patient = patient
        self._embedded: bool | None = None
        self._destination: Destination | None = None
        self._woken = threading.Event()
        self._told = False
        self._stalls = Stalls(engine, settings.source)
        self.progress = RelayProgress(settings.source)

    def wake(self) -> None:
        """There may be something in the outbox: look now. Any thread may call it."""
        self._told = True
        self._woken.set()

    def run(self, stop: threading.Event) -> None:
        """Until ``stop`` is set; then the batch in hand is finished and the lease released.

        Raises UnreachableError if the database or Kafka does not answer at the first start, ConfigurationError, and
        DataError for an outbox row that cannot be published.
        """
        self._run(stop, once=False)

    def run_once(self, stop: threading.Event | None = None) -> int:
        """Until the outbox is empty, everything is committed in Kafka, and the rows are deleted. As ``run``.

        Returns the number of events published. While another relay leads, waits for it to empty the outbox or go.
        """
        self._run(stop or threading.Event(), once=True)
        return self.progress.events

    def _run(self, stop: threading.Event, once: bool) -> None:
        with about_source(self._settings.source):
            self._come_back_until_done(stop, once)

    def _come_back_until_done(self, stop: threading.Event, once: bool) -> None:
        backoff = Backoff()
        first = not self._patient
        while not stop.is_set():
            try:
                self._check_servers()
                first = False
                with Connections(self._engine, self._settings.relay.lease_ms) as connections:
                    if self._stand_by_and_lead(connections, stop, once, backoff):
                        break
            except _StoppedError:
                _log.warning("Kafka did not answer in time: what it has not committed stays in the outbox")
                break
            except FencedError as error:
                # Not at once: were another database published as the same source, the two would fence each other.
                _log.warning("fenced: %s", error)
                stop.wait(backoff.next())
            except (RetriableError, UnreachableError, exc.DBAPIError) as error:
                if first or not _passing(error):
                    raise
                wait = backoff.next()
                _log.warning("%s; trying again in %.1f s", _told(error), wait)
                self._tell(state="waiting")
                self._stalls.look()
                stop.wait(wait)
        self._tell(state="stopped")

    def _check_servers(self) -> None:
        """Once: both servers answer, and the outbox tables are there."""
        if self._embedded is not None:
            return
        reach(self._engine, "primary")
        with self._engine.connect() as connection:
            for table in self._tables:
                if missing := missing_of(table, connection):
                    raise ConfigurationError(
                        f"in {self._engine.url} the table {table.name} {missing}; `rowcast check` says what is missing."
                    )
                if unknown := unknown_of(table, connection):
                    raise ConfigurationError(f"in {self._engine.url} the table {table.name} {unknown}.")
        metadata = kafka.reach(self._properties, "relay")
        self._embedded = kafka.is_embedded(metadata)
        cluster = None if self._embedded else metadata.cluster_id
        self._destination = Destination(cluster, self._settings.topics.template, self._settings.relay.format)
        if self._embedded:
            _log.warning(
                "publishing to the embedded Kafka: it keeps little, in memory, and neither fences a second relay nor "
                "hides what is not committed. For demonstrations and tests only"
            )

    def _stand_by_and_lead(self, connections: Connections, stop: threading.Event, once: bool, backoff: Backoff) -> bool:
        """True if the work is done, in order; False if it was stopped before it could lead."""
        settings = self._settings
        assert self._destination is not None
        lease_row = LeaseRow(
            connections, self._tables, settings.source, self._owner, settings.relay.lease_ms, self._destination
        )
        while (epoch := lease_row.take()) is None:
            self._tell(state="standing by")
            if once and self._is_empty(connections):
                return True
            if stop.wait(min(settings.relay.lease_ms / 20_000, 0.25)):
                return False
        self._tell(state="taking over", epoch=epoch)
        fenced = False
        vacuuming = Vacuuming(self._engine)
        try:
            self._lead(connections, lease_row, epoch, stop, once, backoff, vacuuming)
        except FencedError:
            # Perhaps by a relay that slept and stands by again: then the lease is still this one's, and it keeps it.
            fenced = True
            raise
        finally:
            if not fenced:
                # So that nobody waits for its end; of another epoch's lease this changes nothing.
                with suppress(exc.SQLAlchemyError):
                    lease_row.release(epoch)
            # The next relay need not wait for it.
            vacuuming.close()
        return True

    def _is_empty(self, connections: Connections) -> bool:
        row = self._tables.outbox.c
        return connections.reader.execute(sa.select(row.id).limit(1)).first() is None

    def _lead(
        self, connections: Connections, lease_row: LeaseRow, epoch: int, stop: threading.Event, once: bool,
        backoff: Backoff, vacuuming: Vacuuming,
    ) -> None:  # fmt: skip
        from rowcast.producer.relay.leader import Leader
        from rowcast.producer.relay.publisher import Publisher
        from rowcast.producer.relay.topics import EmbeddedTopics, Topics

        settings = self._settings
        patience = _Patience(stop)

        def waiting() -> None:
            patience.check()
            leader.keep_lease()
            self._stalls.look()

        publisher = Publisher(self._properties, settings.source, waiting, self._woken.set)
        try:
            kind = EmbeddedTopics if self._embedded else Topics
            topics = kind(self._properties, settings.source, settings.topics)
            leader = Leader(
                connections, self._tables, lease_row, epoch, publisher, topics, settings.source,
                _database_name(self._engine), settings.relay, settings.table, self._count,
                settings.topics.template,
            )  # fmt: skip
            leader.take_over()
            backoff.reset()
            _log.info("leading the source %s, epoch %d", settings.source, epoch)
            self._tell(state="leading", lsn=leader.committed_lsn)
            pause, busy_at = settings.relay.poll_min_ms, time.monotonic()
            told = False
            while True:
                self._woken.clear()
                # After that: who asks it to stop wakes it then.
                if stop.is_set():
                    break
                # What is left of what it was told of is no find of its own.
                told, self._told = self._told or (told and leader.more), False
                found = leader.work()
                if once and not found:
                    break
                # What it is told of it need not look for: in an application, each look takes the commits' time.
                if found and not told:
                    pause, busy_at = settings.relay.poll_min_ms, time.monotonic()
                elif not leader.more:
                    self._woken.wait(min(pause / 1000, leader.longest_pause))
                    if time.monotonic() - busy_at > _BUSY_S:
                        pause = min(pause * 2, settings.relay.poll_max_ms)
                self._tell(lsn=leader.committed_lsn)
                self._stalls.look()
                vacuuming.look(leader.deleted_lsn)
            leader.finish()
            self._tell(lsn=leader.committed_lsn)
        finally:
            publisher.close()

    def _count(self, events: int) -> None:
        self.progress = replace(self.progress, events=self.progress.events + events)

    def _tell(self, **changes: object) -> None:
        self.progress = replace(self.progress, **changes)  # type: ignore[arg-type]  # RelayProgress's own fields
        self._stalls.at(self.progress.lsn)
        if self._on_progress is not None:
            self._on_progress(self.progress)


class _Patience:
    """Once asked to stop, waits for Kafka only so long."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._since: float | None = None

    def check(self) -> None:
        if self._stop.is_set():
            self._since = self._since or time.monotonic()
            if time.monotonic() - self._since > _STOPPING_S:
                raise _StoppedError


def _passing(error: Exception) -> bool:
    """Whether the same may work later: the server is away, locked or restarting."""
    return not isinstance(error, exc.DBAPIError) or isinstance(
        error, exc.OperationalError | exc.InterfaceError | exc.InternalError
    )


def _told(error: Exception) -> str:
    if isinstance(error, exc.DBAPIError):
        return f"the primary database: {str(error.orig).strip().splitlines()[0]}"
    return str(error)


def _database_name(engine: Engine) -> str:
    name = engine.url.database or ""
    return Path(name).stem if engine.dialect.name == "sqlite" else name
