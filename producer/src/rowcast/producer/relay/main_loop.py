"""The main loop of a relay: stand by until the lease is free, lead, and come back after each transient error."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Engine

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.outbox.schema import OutboxTables, missing_parts, outbox_tables, unknown_columns
from rowcast.producer.outbox.standbys import StandbyRow
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.epoch import Epoch
from rowcast.producer.relay.claims.heartbeat import Heartbeat
from rowcast.producer.relay.claims.lease import Destination, LeaseRow
from rowcast.producer.relay.progress import OnProgress, RelayProgress, RelayState
from rowcast.producer.relay.upkeep.backlog_alarm import BacklogAlarm
from rowcast.producer.relay.upkeep.silent_kafka import SilentKafka
from rowcast.producer.relay.upkeep.stall_warnings import StallWarnings
from rowcast.producer.relay.upkeep.vacuum import Vacuum
from rowcast.shared import row_values
from rowcast.shared.backoff import Backoff
from rowcast.shared.cli.logs import named
from rowcast.shared.config.relay_settings import RelaySettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.driver_errors import ServerFault, has_known_fault, server_fault
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.database.engines import reach, unreachable
from rowcast.shared.database.silence import watched_connections
from rowcast.shared.errors import ConfigurationError, FencedError, LoginError, RetriableError, UnreachableError
from rowcast.shared.kafka import clients
from rowcast.shared.kafka.signature import Signer
from rowcast.shared.process_name import new_process_name
from rowcast.shared.vitals import Vitals

_log = logging.getLogger("rowcast.relay")

_STOP_TIMEOUT_S = 6.0
"""After a stop the relay waits at most this long for Kafka. The next relay publishes the open claims again. Together
with the closing of its clients it stays below the 10 s after which a command ends whatever it waits for."""

_STANDBY_POLL_S = 0.25


class _StopTimeoutError(Exception):
    """Report that Kafka did not answer in time after a stop."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Hold the parameters of a call of ``run`` or ``run_once``. ``once``: end when the outbox is empty."""

    stop: threading.Event
    once: bool
    backoff: Backoff


class Relay:
    """Publish the outbox of one source. Only ``wake`` may be called from another thread.

    ``new_timeline``: the number of the timeline that may begin after a loss of the primary or of Kafka.
    ``wait_for_servers``: wait for a server that does not answer at the first start, instead of raising. Raises
    ConfigurationError if no Kafka is configured, MissingExtraError if Kafka's client is not installed. ``vitals``:
    where the relay's loop shows that it goes round, for a watchdog of the caller.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        on_progress: OnProgress | None = None,
        *,
        wait_for_servers: bool = False,
        vitals: Vitals | None = None,
        new_timeline: int | None = None,
    ) -> None:
        settings.require_relay()
        self._settings = settings
        self._properties = settings.require_kafka()
        clients.require_client("relay")
        self._engine = engine
        self._tables: OutboxTables = outbox_tables(sa.MetaData())
        self._owner = new_process_name()
        self._on_progress = on_progress
        self._wait_for_servers = wait_for_servers
        self._new_timeline = new_timeline
        self._embedded: bool | None = None
        self._destination: Destination | None = None
        self._woken = threading.Event()
        self._wake_requested = False
        self.vitals = vitals or Vitals(f"the relay of source {settings.source!r}")
        self._beat: Callable[[], None] = lambda: None
        self._stalls = StallWarnings(engine, settings.source)
        self._alarm = BacklogAlarm(engine, settings.source, settings.relay)
        self.progress = RelayProgress(settings.source)

    def wake(self) -> None:
        """Read the outbox now, because of possible new rows. Any thread may call the method."""
        self._wake_requested = True
        self._woken.set()

    def run(self, stop: threading.Event) -> None:
        """Publish until ``stop`` is set. Then finish the open claims and release the lease.

        Raises UnreachableError if the database or Kafka does not answer at the first start, ConfigurationError, and
        DataError for an outbox row that cannot be published.
        """
        self._run(_Run(stop, once=False, backoff=Backoff()))

    def run_once(self, stop: threading.Event | None = None) -> int:
        """Publish until the outbox is empty, and return the number of events published. Raises as ``run``.

        At the end Kafka has committed everything and the outbox rows are deleted. While another relay leads, waits
        until that relay has emptied the outbox or released the lease.
        """
        self._run(_Run(stop or threading.Event(), once=True, backoff=Backoff()))
        return self.progress.events

    def _run(self, run: _Run) -> None:
        shown = row_values.shown_if(self._settings.log_values)
        with (
            named({"source": self._settings.source}),
            watched_connections(),
            shown,
            self.vitals.pulse("publishing") as pulse,
        ):
            self._beat = pulse.beat
            self._retry_until_done(run)

    def _retry_until_done(self, run: _Run) -> None:
        raise_unreachable = not self._wait_for_servers
        while not run.stop.is_set():
            self._beat()
            try:
                self._check_servers()
                raise_unreachable = False
                with Connections(self._engine, self._settings.relay.lease_ms) as connections:
                    if self._stand_by_and_lead(connections, run):
                        break
            except _StopTimeoutError:
                _log.warning("Kafka did not answer in time: uncommitted events stay in the outbox")
                break
            except FencedError as error:
                # Not at once: two relays with different databases and one source name would fence each other.
                _log.warning("fenced: %s", error)
                run.stop.wait(run.backoff.next_pause())
            except (RetriableError, UnreachableError, LoginError, exc.DBAPIError) as error:
                if raise_unreachable or not _is_transient(error):
                    raise
                pause = run.backoff.next_pause()
                _log.warning("%s. Trying again in %.1f s", self._format_error(error), pause)
                self._report(state="waiting")
                self._warn_if_due()
                run.stop.wait(pause)
        self._report(state="stopped")

    def _check_servers(self) -> None:
        """Check once whether both servers answer and the outbox tables are complete."""
        if self._embedded is not None:
            return
        reach(self._engine, "primary")
        self._check_tables()
        metadata = clients.reach(self._properties, "relay")
        self._embedded = clients.is_embedded(metadata)
        cluster = None if self._embedded else metadata.cluster_id
        self._destination = Destination(cluster, self._settings.topics.template, self._settings.relay.format)
        if self._embedded:
            _log.warning(
                "publishing to the embedded Kafka. It holds a few records in memory, does not fence a second relay, "
                "and shows uncommitted events. Use it for demonstrations and tests only"
            )

    def _check_tables(self) -> None:
        with self._engine.connect() as connection:
            for table in self._tables:
                if table is self._tables.batch:
                    # Only batches of the application use the table, so the relay's user may have no right to the table.
                    continue
                if missing := missing_parts(table, connection):
                    raise ConfigurationError(
                        f"in {self._engine.url} the table {table.name} {missing}. Run `rowcast check` to see "
                        "everything that is missing."
                    )
                if unknown := unknown_columns(table, connection):
                    raise ConfigurationError(f"in {self._engine.url} the table {table.name} {unknown}.")

    def _stand_by_and_lead(self, connections: Connections, run: _Run) -> bool:
        """Wait for the lease and lead. Returns True if the work is done, False if a stop came before the lease."""
        settings = self._settings
        assert self._destination is not None
        lease_ms = settings.relay.lease_ms
        lease_row = LeaseRow(connections, self._tables, settings.source, self._owner, lease_ms, self._destination)
        standby = StandbyRow(connections.writer, self._tables, settings.source, self._owner, lease_ms)
        try:
            while (number := lease_row.take()) is None:
                self._report(state="standing by")
                standby.renew_if_due()
                if run.once and self._is_empty(connections):
                    return True
                if run.stop.wait(min(lease_ms / 20_000, _STANDBY_POLL_S)):
                    return False
        finally:
            standby.remove()
        self._report(state="taking over", epoch=number)
        heartbeat = Heartbeat(lease_row, number, lease_ms)
        database = capture_dialect(self._engine.dialect).database_name(self._engine.url)
        epoch = Epoch(number, settings, database, connections, self._tables, lease_row, heartbeat)
        fenced = False
        vacuum = Vacuum(self._engine)
        try:
            self._lead(epoch, run, vacuum)
        except FencedError:
            # A suspended relay may have fenced this relay's producers before noticing the loss of its own lease. Then
            # this relay still holds the lease, and keeps the lease.
            fenced = True
            raise
        finally:
            if not fenced:
                # No standby has to wait for the lease's end. The release changes nothing in the lease of a later epoch.
                with suppress(exc.SQLAlchemyError):
                    lease_row.release(number)
            # After the release, because the next relay need not wait for the VACUUM.
            vacuum.close()
        return True

    def _is_empty(self, connections: Connections) -> bool:
        row = self._tables.outbox.c
        return connections.reader.execute(sa.select(row.id).limit(1)).first() is None

    def _lead(self, epoch: Epoch, run: _Run, vacuum: Vacuum) -> None:
        from rowcast.producer.relay.kafka.publisher import Publisher
        from rowcast.producer.relay.kafka.topics import EmbeddedTopics, Topics
        from rowcast.producer.relay.leader.work_loop import Leader

        settings = self._settings
        deadline = _StopDeadline(run.stop)

        def renew_lease() -> None:
            self._beat()
            deadline.check()
            epoch.heartbeat.renew_lease()
            if kafka.is_silent():
                self._report(state="waiting")
            self._warn_if_due()

        publisher = Publisher(
            self._properties,
            settings.source,
            renew_lease,
            self._woken.set,
            Signer(settings.source, settings.signature_keys),
        )
        kafka = SilentKafka(self._properties["bootstrap.servers"], publisher.unanswered)
        try:
            topics_class = EmbeddedTopics if self._embedded else Topics
            topics = topics_class(self._properties, settings.source, settings.topics)
            leader = Leader(epoch, publisher, topics, self._add_events, self._new_timeline)
            leader.take_over()
            run.backoff.reset()
            _log.info("leading the source %s, epoch %d", settings.source, epoch.number)
            self._report(state="leading", lsn=leader.committed_lsn)
            poll = _PollInterval(settings.relay)
            by_wake = False
            while True:
                self._beat()
                self._woken.clear()
                # The order matters: a stop sets ``stop`` first and then wakes the relay.
                if run.stop.is_set():
                    break
                # Work left over from a wake-up does not count as found by polling, and must not reset the interval.
                by_wake, self._wake_requested = self._wake_requested or (by_wake and leader.more), False
                found = leader.work()
                if run.once and not found:
                    break
                # A commit callback that wakes the relay does not speed up polling. Inside an application, each poll
                # slows down commits.
                if found and not by_wake:
                    poll.reset()
                elif not leader.more:
                    self._woken.wait(min(poll.pause_s, leader.longest_pause_s))
                    poll.lengthen_if_quiet()
                publisher.ask_if_idle()
                state: RelayState = "waiting" if kafka.is_silent() else "leading"
                self._report(state=state, lsn=leader.committed_lsn)
                self._warn_if_due()
                vacuum.run_if_due(leader.deleted_lsn)
            leader.finish()
            self._report(lsn=leader.committed_lsn)
        finally:
            publisher.close()

    def _warn_if_due(self) -> None:
        self._stalls.warn_if_due()
        self._alarm.check_if_due()

    def _format_error(self, error: Exception) -> str:
        if isinstance(error, exc.DBAPIError):
            if server_fault(error) is not ServerFault.LOGIN:
                return f"the primary database: {first_line(error)}"
            error = unreachable(self._engine, "primary", error)
        return str(error).removesuffix(".")

    def _add_events(self, events: int) -> None:
        self.progress = replace(self.progress, events=self.progress.events + events)

    def _report(self, **changes: object) -> None:
        self._beat()
        self.progress = replace(self.progress, **changes)  # type: ignore[arg-type]  # RelayProgress's own fields
        if self.progress.state in ("leading", "standing by"):
            self.vitals.note_progress()
        self._stalls.note_committed(self.progress.lsn)
        if self._on_progress is not None:
            self._on_progress(self.progress)


class _PollInterval:
    """Give the pause before the next poll of an empty outbox: from ``poll_min_ms``, doubled up to ``poll_max_ms``."""

    _BUSY_S = 0.1
    """After a find the pause stays at its minimum for this time, because more rows are likely to follow."""

    def __init__(self, settings: RelaySettings) -> None:
        self._min_s = settings.poll_min_ms / 1000
        self._max_s = settings.poll_max_ms / 1000
        self.reset()

    def reset(self) -> None:
        """Begin with the shortest pause again, because a poll has found rows."""
        self.pause_s = self._min_s
        self._found_at = time.monotonic()

    def lengthen_if_quiet(self) -> None:
        """Double the pause, unless a poll has found rows a moment ago."""
        if time.monotonic() - self._found_at > self._BUSY_S:
            self.pause_s = min(self.pause_s * 2, self._max_s)


class _StopDeadline:
    """Limit how long the relay waits for Kafka after a stop."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._seen_at: float | None = None

    def check(self) -> None:
        """Raise _StopTimeoutError if the stop was seen ``_STOP_TIMEOUT_S`` ago."""
        if self._stop.is_set():
            self._seen_at = self._seen_at or time.monotonic()
            if time.monotonic() - self._seen_at > _STOP_TIMEOUT_S:
                raise _StopTimeoutError


def _is_transient(error: Exception) -> bool:
    """Return whether the same work may succeed later. A login may, because the first login has succeeded."""
    return not isinstance(error, exc.DBAPIError) or has_known_fault(error)
