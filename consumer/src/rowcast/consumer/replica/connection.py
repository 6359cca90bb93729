"""The replica database as the active worker uses it: connection, ownership, state, tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.consumer.events.dead_letter import DeadLetterTopic
from rowcast.consumer.events.position import Partition, Position, StoredState
from rowcast.consumer.events.rebuild_hint import REBUILD
from rowcast.consumer.events.row_layout import RowLayout, RowLayouts
from rowcast.consumer.events.source_notes import other_timeline
from rowcast.consumer.events.transactions import Run, Transaction
from rowcast.consumer.replica import positions
from rowcast.consumer.replica.applier import Applier
from rowcast.consumer.replica.bad_rows import BadRows
from rowcast.consumer.replica.claim import Claim
from rowcast.consumer.replica.constraints import Constraints
from rowcast.consumer.replica.dialects import LIVE, Fault, TableNaming, replica_dialect
from rowcast.consumer.replica.evolution.steps import Step, carry_out, require_no_statements
from rowcast.consumer.replica.part import Part, require_undivided
from rowcast.consumer.replica.positions import Positions, ReplicaRow
from rowcast.consumer.replica.promoted import PROMOTED_STATES, PromotedError, promoted_error
from rowcast.consumer.replica.run_writer import RunWriter
from rowcast.consumer.replica.table_swap import settle_swap
from rowcast.consumer.replica.tables import ReplicaTables
from rowcast.consumer.replica.worker_tables import METADATA, create_tables
from rowcast.consumer.views.replica_view import ReplicaView, UnviewableError
from rowcast.shared.config.replica_settings import Evolution, ReplicaSettings
from rowcast.shared.database.driver_errors import ServerFault, server_fault
from rowcast.shared.database.engines import open_engine, reach, unreachable
from rowcast.shared.errors import ConfigurationError, DataError, RetriableError, RowcastError, SuspectError
from rowcast.shared.process_name import new_process_name
from rowcast.shared.tables.shape import TableShape
from rowcast.shared.tracebacks import format_error

_log = logging.getLogger("rowcast.worker")


class Replica:
    """A replica database.

    Methods raise RetriableError if the database goes away or a lock is not granted: call the method again then. Methods
    raise FencedError if another worker has taken over. Methods raise ReplicaChangedError if the replica is not as this
    worker left it: take the replica over again then.
    """

    def __init__(
        self,
        source: str,
        name: str,
        settings: ReplicaSettings,
        layouts: RowLayouts,
        naming: TableNaming = LIVE,
        part: Part | None = None,
        dead_letters: DeadLetterTopic | None = None,
    ) -> None:
        """Connect once. Raise UnreachableError and ConfigurationError.

        ``part``: the part in a divided load. ``dead_letters``: where refused rows go, for a replica that applies runs.
        """
        self._name, self._label = name, f"replica {name!r}"
        self._source = source
        self._part = part
        self._layouts = layouts
        # The fresh tables of a rebuild may be a part of the tables.
        self._view = ReplicaView(settings, layouts.latest, warns=naming == LIVE)
        self._owner = new_process_name()
        self._lease_s = settings.lease_ms / 1000
        self._engine = open_engine(settings.sqlalchemy_url, self._label, pooled=False)
        self._dialect = replica_dialect(self._engine.dialect.name, naming)
        self._dialect.configure(self._engine)
        reach(self._engine, self._label)
        self._connection: Connection | None = None
        self._file = self._dialect.database_file(self._engine)
        # The fresh tables of a rebuild belong to nobody else.
        self._evolution: Evolution = "evolve" if naming.prefix else settings.evolution
        self._tables = self._new_tables()
        self._constraints = Constraints(self._dialect, self._tables)
        self._positions = Positions(source, 0, 0, self._dialect)
        self._applier = Applier(self._dialect, self._tables, self._positions, self._call_between_pieces)
        self._dead_letters, self._settings = dead_letters, settings
        self._writer = self._new_writer()
        # Set after a fault, because the last transaction may or may not have been committed.
        self._in_doubt = False
        self._lacks_constraints = False
        self._may_end_others: Callable[[], bool] = lambda: False
        self._timeline = 0
        self.state: StoredState = "loading"
        self.between_pieces: Callable[[], None] = lambda: None
        """Called between the pieces of a large transaction. It may raise RetriableError, which rolls back."""
        self.topic_ids: dict[str, str] = {}
        """The ids of the topics to which the positions belong. Added ids are stored with the next positions."""

    def new_claim(self, is_moving: Callable[[], bool]) -> Claim:
        """Return the claim to the replica, which is not held yet. ``is_moving``: see ``Claim``."""
        session = self._dialect.new_claim(self._engine.url, self._label, self._source, self._lease_s)
        return Claim(session, self._lease_s, is_moving)

    def take(self, claim: Claim) -> bool:
        """Return whether the worker has the claim now. With it, the worker may end sessions of earlier workers."""
        with self._translated_errors():
            self._may_end_others = lambda: claim.is_held
            return claim.take()

    def _new_writer(self) -> RunWriter:
        settings = self._settings
        bad_rows = BadRows(
            self._applier, self._positions, topic=self._dead_letters, sets_aside=settings.on_bad_row == "dlq",
            whole=settings.dlq_unit == "transaction",
        )  # fmt: skip
        return RunWriter(self._applier, bad_rows)

    def _call_between_pieces(self) -> None:
        self.between_pieces()

    def close(self) -> None:
        """Close the connection. A transaction that was not committed rolls back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def register(self) -> None:
        """Write a row for a worker that waits for the source's topics, unless the replica has a row."""
        with self._translated_errors():
            create_tables(self._engine, self._dialect)
        with self._connected() as connection, connection.begin():
            positions.register(connection, self._source, self._owner)
        self.close()

    def take_over(self) -> tuple[ReplicaRow, dict[Partition, Position]]:
        """Take the replica over and fence every earlier worker. Return the replica's row and its positions.

        Raise SuspectError if an earlier worker has found the replica suspect, and PromotedError if the replica is a
        primary now.
        """
        self._create_worker_tables()
        with self._connected() as connection, connection.begin():
            self._dialect.require_transactions(connection, list(METADATA.tables))
            row = self._take_over_row(connection)
            applied_positions = self._read_positions(connection)
        own = Positions(self._source, row.epoch, row.stamp, self._dialect, self.topic_ids)
        self._begin(row, applied_positions, own)
        return row, applied_positions

    def _create_worker_tables(self) -> None:
        self.close()
        with self._translated_errors():
            create_tables(self._engine, self._dialect)
        if not self._dialect.has_transactional_ddl:
            with self._connected() as connection:
                settle_swap(connection, self._source)

    def _read_positions(self, connection: Connection) -> dict[Partition, Position]:
        self.topic_ids = positions.read_topic_ids(connection, self._source)
        return positions.read_positions(connection, self._source)

    def _begin(self, row: ReplicaRow, applied: Mapping[Partition, Position], own: Positions) -> None:
        """Begin to work on the replica as it is. ``applied``: the stored positions. Raise as ``take_over``."""
        with self._connected() as connection:
            self._dialect.set_consistency(connection, consistent=row.state == "consistent")
        self.state, self._timeline = row.state, row.timeline
        # The tables may be others too, after a failover or a restore.
        self._dialect.forget_tables()
        # A later table of the replica was not in the snapshot of the load.
        first_lsn = 0 if any(position.next_offset for position in applied.values()) else row.first_lsn
        self._tables = self._new_tables(first_lsn)
        self._constraints = Constraints(self._dialect, self._tables)
        self._positions = own
        self._applier = Applier(self._dialect, self._tables, self._positions, self._call_between_pieces)
        self._applier.lsn = row.lsn
        self._writer = self._new_writer()
        self._in_doubt = False
        if row.state == "suspect":
            raise SuspectError(row.reason or f"the replica is suspect. {REBUILD}")
        if row.state in PROMOTED_STATES:
            raise promoted_error(self._name, row.state)

    def _take_over_row(self, connection: Connection) -> ReplicaRow:
        if self._part is None:
            require_undivided(connection, self._source, f"rowcast rebuild {self._name}")
        elif self._part.epoch is not None:
            return positions.take_over_share(connection, self._source, self._owner, self._part.epoch)
        return positions.take_over(connection, self._source, self._owner)

    def _new_tables(self, first_lsn: int = 0) -> ReplicaTables:
        if self._part is None:
            return ReplicaTables(self._source, self._dialect, first_lsn, self._evolution)
        may_change = self._part.may_change_tables
        return ReplicaTables(self._part.tables_source, self._dialect, first_lsn, may_change=may_change)

    def compare(self) -> None:
        """Raise ReplicaChangedError if the replica no longer has this worker's stamp."""
        with self._connected() as connection, connection.begin():
            self._positions.compare(connection)

    def own_transaction(self, connection: Connection) -> AbstractContextManager[None]:
        """Return a transaction of any connection, committed only if the replica still has this worker's stamp."""
        return self._positions.transaction(connection)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield the connection in a transaction, committed only if the replica still has this worker's stamp."""
        with self._connected() as connection, self._positions.transaction(connection):
            yield connection

    def follow_timeline(self, source: int) -> None:
        """Record the source's timeline for a new replica.

        Raise SuspectError if the source has begun a later timeline, and DataError if the source is on an earlier
        timeline.
        """
        if self._timeline == 0:
            with self._connected() as connection:
                self._positions.write_timeline(connection, source)
            self._timeline = source
        if source > self._timeline:
            raise other_timeline(self._timeline, source)
        if source < self._timeline:
            # The configuration may name the wrong Kafka, so the replica is not suspect for good.
            raise DataError(
                f"the schema topic knows timelines up to {source}, and the replica is on timeline {self._timeline}: "
                "this is the wrong Kafka, or Kafka has lost events. Correct the configuration, or start the relay."
            )

    def record_stop(self, error: Exception) -> None:
        """Write the error that ends the worker to the replica's row, where ``rowcast status`` finds it.

        The row is unchanged if another worker has taken over, if no worker has ever taken the replica over, or if the
        replica is a primary now.
        """
        self.close()
        if isinstance(error, PromotedError):
            return
        reason, now_ms = format_error(error), time.time_ns() // 1_000_000
        try:
            with self._connected() as connection, connection.begin():
                self._positions.record_stop(connection, reason, now_ms, suspect=isinstance(error, SuspectError))
        except (RowcastError, exc.SQLAlchemyError) as failure:
            _log.warning("%s: the reason for the stop could not be written: %s", self._label, format_error(failure))

    def clear_stop(self) -> None:
        """Remove the error of an earlier worker from the replica's row, because this worker works."""
        with self._connected() as connection, connection.begin():
            self._positions.clear_stop(connection)

    def prepare(self, layouts: Iterable[RowLayout] = ()) -> None:
        """Create or adapt the tables of all shapes that have been read. ``layouts``: as ``ReplicaTables.prepare``.

        A consistent replica is loading afterwards if rows violate a constraint of a new shape.
        """
        shapes = self._view.shapes(self._layouts.table_shapes())
        if not layouts and not self._lacks_constraints and not self._tables.needs_prepare(shapes):
            return
        with self._connected() as connection:
            self._prepare_tables(connection, shapes, layouts)
            # If a reader holds a table, the next call creates the constraints.
            self._lacks_constraints = self.state == "consistent"
            if self.state == "consistent" and not self._create_new_constraints(connection):
                # Not suspect: the rows may be from before the primary had the constraint.
                self._positions.lose_consistency(connection)
                self.state = "loading"
                self._dialect.set_consistency(connection, consistent=False)
            self._lacks_constraints = False

    def _prepare_tables(
        self, connection: Connection, shapes: Iterable[TableShape], layouts: Iterable[RowLayout] = ()
    ) -> None:
        with self._changing_tables(connection):
            self._tables.prepare(connection, shapes, layouts, self._layouts.renamed)
        # The rows blocked by letters are known by the names of their tables.
        self._writer.forget()

    @contextmanager
    def _changing_tables(self, connection: Connection) -> Iterator[None]:
        """Change tables in one transaction where the engine can, without foreign keys where the engine needs this."""
        is_suspended = self._dialect.rewrites_tables and self.state == "consistent"
        if is_suspended:
            self._dialect.set_consistency(connection, consistent=False)
        try:
            with self._positions.transaction(connection):
                yield
        finally:
            if is_suspended and not connection.invalidated:
                self._dialect.set_consistency(connection, consistent=True)

    def carry_out(self, steps_of: Callable[[Connection], Iterable[Step]]) -> None:
        """Change tables as a command wants. ``steps_of``: yields the steps, in the transaction that changes the tables.

        Raise ConfigurationError for a refused statement, and the errors of ``steps_of``.
        """
        with self._connected() as connection, self._changing_tables(connection):
            carry_out(connection, self._dialect, steps_of(connection))

    def _create_new_constraints(self, connection: Connection) -> bool:
        """Return whether the rows satisfy the constraints of new shapes, as far as the settings create them."""
        if self._evolution == "evolve":
            return self._constraints.create(connection, are_checked=True)
        created = self._tables.just_created
        if self._evolution == "validate":
            require_no_statements(self._constraints.missing(connection, but=created))
        return self._constraints.create(connection, are_checked=True, only=created)

    def first_lsns(self) -> dict[str, int]:
        """Return the lsn before which the events of each table are left out, by ``schema.table``."""
        with self._connected() as connection, connection.begin():
            return self._tables.records.first_lsns(connection)

    def apply(self, run: Run) -> int:
        """Apply a run, whole or up to the transaction that raises ConflictError or DataError.

        Return the number of applied events. While the replica loads by key, changes that violate a constraint of the
        user's are held back until later changes resolve the conflict or ``become_consistent`` is called.
        """
        try:
            run = self._prepared(run)
        except UnviewableError as error:
            if error.before.transactions:
                self.apply(error.before)
            raise
        with self._connected() as connection:
            if self._in_doubt:
                run = self._without_applied(connection, run)
                self._in_doubt = False
            if run.transactions:
                self._writer.apply(connection, run)
        return run.event_count

    def settle(self, transaction: Transaction) -> None:
        """Apply the changes of letters and remove their records. Raise DataError if a change is refused."""
        run = self._prepared(Run([transaction]))
        with self._connected() as connection:
            self._applier.apply(connection, run)

    def _prepared(self, run: Run) -> Run:
        """Let the tables fit all layouts of a run. Return the run with the present names of its tables."""
        run = self._tables.renamed_tables.run(run)
        if self._view:
            run = self._view.run(run)
        layouts = dict.fromkeys(layout for t in run.transactions for layout in t.layouts())
        if unfit := [layout for layout in layouts if not self._tables.fits(layout)]:
            self.prepare(unfit)
            # A table may have been renamed now.
            run = self._tables.renamed_tables.run(run)
        return run

    def _without_applied(self, connection: Connection, run: Run) -> Run:
        """Return the run without the transactions that the replica's positions already include."""
        with connection.begin():
            self._positions.compare(connection)
            applied = positions.read_positions(connection, self._source)
        start = Position(0, 0)
        remaining = []
        for transaction in run.transactions:
            places = transaction.positions.items()
            is_new = any(applied.get(partition, start).next_offset < place.next_offset for partition, place in places)
            # Without a position of its own, the changes are read again after a restart too.
            if is_new or not places:
                remaining.append(transaction)
        return Run(remaining)

    def become_consistent(self) -> bool:
        """Create and check the constraints. Return False if rows violate one: the replica stays in loading then."""
        with self._connected() as connection:
            self._writer.write_held_back(connection)
        self.prepare()
        with self._connected() as connection:
            # First, because the server is to check the rows when constraints are created.
            self._dialect.set_consistency(connection, consistent=True)
            if not self._constraints.create(connection):
                self._dialect.set_consistency(connection, consistent=False)
                return False
            self._positions.change_state(connection, "consistent")
            self.state = "consistent"
        _log.info("%s is consistent: from now on, every state is one that the primary had", self._label)
        return True

    def check_constraints(self, shapes: Sequence[TableShape]) -> bool:
        """Create missing constraints of these tables. Return whether the rows satisfy all constraints."""
        with self._connected() as connection:
            self._prepare_tables(connection, shapes)
            self._dialect.set_consistency(connection, consistent=True)
            return self._constraints.create(connection)

    def record_promotion(self, state: Literal["promoting", "promoted"]) -> None:
        """Record the promotion, begun or finished, so that no worker writes to the replica any more."""
        with self._connected() as connection:
            self._positions.record_promotion(connection, state, time.time_ns() // 1_000_000)

    def follow_rows(self, ends: Mapping[Partition, int]) -> bool:
        """Record that every row is up to date by itself. No constraint between rows is created.

        ``ends``: the offsets up to which the partitions of other workers must be applied. Return False if they are not.
        """
        if self.state == "following":
            return True
        with self._connected() as connection:
            if not self._has_reached(connection, ends):
                return False
            self._positions.change_state(connection, "following")
        self.state = "following"
        _log.info("%s is following: each row is as the source had it, and not all rows at the same moment", self._label)
        return True

    def _has_reached(self, _connection: Connection, _ends: Mapping[Partition, int]) -> bool:
        # The only worker has applied all events read.
        return True

    def recorded_shapes(self) -> list[TableShape]:
        """Return the last shapes of the tables that a worker has created or used."""
        with self._connected() as connection, connection.begin():
            return self._tables.records.shapes(connection)

    def lose_consistency(self) -> None:
        """Let a consistent replica load, because the tables are not at one lsn any more. Drop the constraints."""
        with self._connected() as connection:
            self._positions.lose_consistency(connection)
            self.state = "loading"
            self._dialect.set_consistency(connection, consistent=False)
            self._constraints.drop(connection)

    def begin_loading(self, deletes_known_ms: int = 0) -> None:
        """Drop the constraints, because the next events go by key.

        ``deletes_known_ms``: the replica knows all deletes before this time. 0: the time is not known.
        """
        with self._connected() as connection:
            self._positions.change_state(connection, "loading", deletes_known_ms)
            self.state = "loading"
            self._dialect.set_consistency(connection, consistent=False)
            self._constraints.drop(connection)
        _log.warning(
            "%s is loading: until it is consistent, rows may arrive before the rows that they refer to", self._label
        )

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Yield the connection, after opening a new connection if needed."""
        with self._translated_errors():
            self._leave_replaced_file()
            if self._connection is None:
                self._connection = self._engine.connect()
                self._set_up(self._connection)
                self._dialect.set_consistency(self._connection, consistent=self.state == "consistent")
            yield self._connection

    def _leave_replaced_file(self) -> None:
        """Close a connection to a replaced file. Raise RetriableError while the file is missing.

        A connection would go on writing to a file without a name, or create an empty file.
        """
        file = self._dialect.database_file(self._engine)
        if file == self._file:
            return
        if file is None:
            raise RetriableError(f"{self._label}: its file {self._engine.url.database} is gone")
        if self._file is not None:
            self._drop_connection()
        self._file = file

    def _set_up(self, connection: Connection) -> None:
        """Prepare a new connection for the transactions of this worker."""
        self._end_other_writers(connection)

    def _end_other_writers(self, connection: Connection) -> None:
        if not self._may_end_others():
            return
        try:
            self._dialect.end_other_writers(connection, self._source)
        except exc.DBAPIError as error:
            if self._dialect.classify(error) in (Fault.LOST, Fault.TRANSIENT):
                raise
            # Without the right, the worker waits for the end of the other session.
            _log.warning("%s: %s", self._label, self._dialect.reason(error))

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Turn the driver's errors into rowcast's, and drop the connection after a transient error."""
        try:
            yield
        except RetriableError:
            self._drop_connection()
            raise
        except exc.DBAPIError as error:
            reason = self._dialect.reason(error)
            if self._dialect.classify(error) in (Fault.LOST, Fault.TRANSIENT):
                self._drop_connection()
                if server_fault(error) is ServerFault.LOGIN:
                    raise RetriableError(str(unreachable(self._engine, self._label, error))) from error
                raise RetriableError(f"{self._label}: {reason}") from error
            raise ConfigurationError(
                f"{self._label}: the database refused a statement of the worker: {reason}. "
                "Check that the user of its url may create and change tables there."
            ) from error

    def _drop_connection(self) -> None:
        self._in_doubt = True
        self._writer.forget()
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.invalidate()
                connection.close()
            except exc.DBAPIError as error:
                _log.debug("closing a lost connection failed: %s", error)
