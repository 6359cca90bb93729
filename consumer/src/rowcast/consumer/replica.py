"""One replica database, as the active worker holds it: connection, ownership, state, tables."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.consumer import positions
from rowcast.consumer.apply import Applier, ConflictError
from rowcast.consumer.changes import Partition
from rowcast.consumer.constraints import Constraints
from rowcast.consumer.dialects import Fault, replica_dialect
from rowcast.consumer.layouts import Layouts
from rowcast.consumer.positions import Position, Positions, ReplicaState, State
from rowcast.consumer.tables import ReplicaTables
from rowcast.consumer.transactions import Run, Transaction
from rowcast.shared.config import ReplicaSettings
from rowcast.shared.databases import open_engine, reach
from rowcast.shared.errors import ConfigurationError, RetriableError

_log = logging.getLogger("rowcast.worker")


class Replica:
    """Its methods raise RetriableError when the database goes away or a lock is not given: do the same again then.

    FencedError: another worker has taken over.
    """

    def __init__(self, source: str, name: str, settings: ReplicaSettings, layouts: Layouts) -> None:
        """Connects once. Raises UnreachableError, ConfigurationError."""
        self._what = f"replica {name!r}"
        self._source = source
        self._layouts = layouts
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._engine = open_engine(settings.sqlalchemy_url, self._what, pooled=False)
        self._dialect = replica_dialect(self._engine.dialect.name)
        self._dialect.configure(self._engine)
        reach(self._engine, self._what)
        self._connection: Connection | None = None
        self._tables = ReplicaTables(source, self._dialect)
        self._constraints = Constraints(self._dialect, self._tables)
        self._positions = Positions(source, 0, self._dialect)
        self._applier = Applier(self._dialect, self._tables, self._positions)
        # After a fault nobody knows whether the transaction was committed.
        self._in_doubt = False
        self._held_back: list[Transaction] = []
        self.state: State = "loading"

    def close(self) -> None:
        """Gives the connection back; what was not committed rolls back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def claim(self) -> tuple[ReplicaState, dict[Partition, Position]]:
        """Takes the replica over: from here on every earlier worker is fenced."""
        self.close()
        self._held_back.clear()
        with self._faults_told():
            positions.create_tables(self._engine)
        with self._connected() as connection, connection.begin():
            state = positions.claim(connection, self._source, self._owner)
            reached = positions.read_positions(connection, self._source)
        self.state = state.state
        self._positions = Positions(self._source, state.epoch, self._dialect)
        self._applier = Applier(self._dialect, self._tables, self._positions)
        self._applier.lsn = state.lsn
        self._in_doubt = False
        self.close()
        return state, reached

    def prepare(self) -> None:
        """Makes or fits the tables of all the shapes that have been read."""
        shapes = self._layouts.shapes()
        if not self._tables.missing(shapes):
            return
        with self._connected() as connection:
            with connection.begin():
                self._positions.hold(connection)
                self._tables.prepare(connection, shapes)
            if self.state == "consistent":
                self._constraints.make(connection)

    def apply(self, run: Run) -> int:
        """Applies a run, whole, or up to the transaction that raises ConflictError or DataError.

        Returns how many events were applied. While the replica loads by key, changes that a constraint of the user's
        own stands in the way of are held back until ``become_consistent`` or until others clear it.
        """
        layouts = {change.layout for transaction in run.transactions for change in transaction.changes}
        if not all(self._tables.fits(layout) for layout in layouts):
            self.prepare()
        with self._connected() as connection:
            if self._in_doubt:
                run = self._without_applied(connection, run)
                self._in_doubt = False
            if run.transactions:
                self._apply_with_held_back(connection, run)
        return run.events

    def _apply_with_held_back(self, connection: Connection, run: Run) -> None:
        run = Run([*self._held_back, *run.transactions])
        by_key = run.transactions[0].by_key
        try:
            self._applier.apply(connection, run, complete=not by_key)
        except ConflictError:
            if not by_key:
                raise
            self._held_back = list(run.transactions)
        else:
            self._held_back.clear()

    def _without_applied(self, connection: Connection, run: Run) -> Run:
        with connection.begin():
            there = positions.read_positions(connection, self._source)
        nowhere = Position(0, 0)
        return Run(
            [
                transaction
                for transaction in run.transactions
                if any(there.get(p, nowhere).next_offset < at.next_offset for p, at in transaction.reach.items())
            ]
        )

    def become_consistent(self) -> bool:
        """Makes and checks the constraints. False if rows stand in the way: the replica stays in loading."""
        if self._held_back:
            with self._connected() as connection:
                held, self._held_back = Run([_joined(self._held_back)]), []
                self._applier.apply(connection, held)
        self.prepare()
        with self._connected() as connection:
            # First, so that rows are looked at when constraints are made.
            self._dialect.enter(connection, consistent=True)
            if not self._constraints.make(connection):
                self._dialect.enter(connection, consistent=False)
                return False
            with connection.begin():
                self._positions.change_state(connection, "consistent")
            self.state = "consistent"
        _log.info("%s is consistent: from here on every state is one that the primary was in", self._what)
        return True

    def begin_loading(self) -> None:
        """Takes the constraints off: what follows comes by key."""
        with self._connected() as connection:
            with connection.begin():
                self._positions.change_state(connection, "loading")
            self.state = "loading"
            self._dialect.enter(connection, consistent=False)
            self._constraints.take_off(connection)
        _log.warning(
            "%s is loading: until it is consistent, rows may be there before those that they refer to", self._what
        )

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """The connection, made anew if it was lost."""
        with self._faults_told():
            if self._connection is None:
                self._connection = self._engine.connect()
                self._dialect.enter(self._connection, consistent=self.state == "consistent")
            yield self._connection

    @contextmanager
    def _faults_told(self) -> Iterator[None]:
        try:
            yield
        except RetriableError:
            self._lose()
            raise
        except exc.DBAPIError as error:
            reason = self._dialect.reason(error)
            if self._dialect.fault(error) in (Fault.LOST, Fault.PASSING):
                self._lose()
                raise RetriableError(f"{self._what}: {reason}") from error
            raise ConfigurationError(
                f"{self._what}: the database refused a statement of the worker's: {reason}. "
                "May the user of its url create and change tables there?"
            ) from error

    def _lose(self) -> None:
        self._in_doubt = True
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.invalidate()
                connection.close()
            except exc.DBAPIError as error:
                _log.debug("closing a lost connection: %s", error)


def _joined(held: list[Transaction]) -> Transaction:
    """Everything up to the topics' ends: what the constraints stood in the way of is complete now."""
    last = max(held, key=lambda t: t.lsn)
    joined = Transaction(last.id, last.lsn, last.ts_ms, by_key=True)
    for transaction in held:
        joined.changes += transaction.changes
        joined.reach |= transaction.reach
    return joined
