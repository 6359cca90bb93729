"""``rowcast promote``: make a replica a primary, ready for writes at once.

refuse ──▶ fence the workers ──▶ check the constraints ──▶ mark ──▶ change the tables ──▶ create the outbox ──▶ mark

From the first mark on, no worker writes to the replica again. After a kill at any statement, run the command again. The
command finds the remaining steps by a look at the database.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import URL, Connection, Engine

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.promotion.dialects import promotion_dialect
from rowcast.consumer.promotion.notes import notes_of
from rowcast.consumer.promotion.plan import Plan, Step
from rowcast.consumer.promotion.readiness import UNKNOWN, NotReadyError, require_ready, require_vouching, require_whole
from rowcast.consumer.promotion.replica_tables import existing_tables
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.dialects import Fault, replica_dialect
from rowcast.consumer.replica.dialects.quoting import doubles_percents
from rowcast.consumer.replica.positions import ReplicaRow, read_row
from rowcast.consumer.replica.table_definitions import replica_name
from rowcast.consumer.replica.table_records import TableRecords
from rowcast.consumer.replica.taken import taken_replica
from rowcast.consumer.replica.worker_tables import ROWCAST_REPLICA
from rowcast.shared.backoff import Backoff
from rowcast.shared.cli.contributions import PROMOTION, load_contributions
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.errors import ConfigurationError, DataError, FencedError, RetriableError
from rowcast.shared.tables.shape import TableShape

_log = logging.getLogger("rowcast.promote")

_CreateOutbox = Callable[[URL, Sequence[TableShape]], list[str]]


@dataclass(frozen=True, slots=True)
class PromotionOptions:
    """The options of the command. See ``rowcast promote --help``."""

    accept_lost: str | None = None
    accept_partial: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PromotionResult:
    """The result of a promotion.

    ``statements``: executed, or only planned. ``notes``: the tasks for a person. ``lost``: the missing changes of the
    new primary, or "". ``timeline``: the number of the timeline to begin. ``shapes``: the tables of the source.
    ``was_done``: an earlier command has finished the promotion. ``default_schema``: the schema of the new primary.
    """

    replica: str
    statements: tuple[str, ...]
    notes: tuple[str, ...]
    lost: str
    timeline: int
    shapes: tuple[TableShape, ...]
    default_schema: str
    was_done: bool = False


def promote(settings: Settings, name: str, options: PromotionOptions, *, stop: threading.Event) -> PromotionResult:
    """Make a replica a primary. After an interruption, call it again.

    Raise NotReadyError if the replica lacks changes, ConfigurationError, UnreachableError, and RetriableError if the
    active worker does not end.
    """
    return _Promotion(settings, name, options, stop).run()


class _Promotion:
    def __init__(self, settings: Settings, name: str, options: PromotionOptions, stop: threading.Event) -> None:
        self._settings = settings
        self._name = name
        self._options = options
        self._stop = stop
        self._label = f"replica {name!r}"
        url = settings.replica(name).sqlalchemy_url
        if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
            # Connecting would create an empty file.
            raise ConfigurationError(f"{self._label}: there is no file {url.database}. Correct its url.")
        self._engine: Engine = open_engine(url, self._label, pooled=False)
        reach(self._engine, self._label)
        self._replica_dialect = replica_dialect(self._engine.dialect.name)
        self._replica_dialect.configure(self._engine)
        self._dialect = promotion_dialect(self._engine.dialect.name)
        self._lost = ""

    def run(self) -> PromotionResult:
        row = self._row()
        if row.state == "promoted":
            return self._result((), (), row, was_done=True)
        if row.state != "promoting":
            require_vouching(self._name, row)
            self._require_ready()
        if self._options.dry_run:
            plan = self._plan()
            return self._result([s for step in plan.steps for s in step.statements], plan.notes, row)
        layouts = RowLayouts(self._settings.replica(self._name).tables)
        command = f"rowcast promote {self._name}"
        with taken_replica(self._settings, self._name, layouts, self._stop, command) as replica:
            # Another promotion may have ended meanwhile.
            row = self._row()
            if row.state == "promoted":
                return self._result((), (), row, was_done=True)
            if row.state != "promoting":
                require_vouching(self._name, row)
                if self._options.accept_lost != UNKNOWN:
                    # The active worker may have applied more, and the application may have written more.
                    self._require_ready()
                try:
                    self._check_constraints(replica)
                    replica.record_promotion("promoting")
                except FencedError as error:
                    raise RetriableError(
                        f"another process has taken {self._label} over, so nothing was changed. Run {command} again"
                    ) from error
            executed, notes = self._carry_out()
            replica.record_promotion("promoted")
        return self._result(executed, notes, self._row())

    def _row(self) -> ReplicaRow:
        with self._engine.connect() as connection:
            found = sa.inspect(connection).has_table(ROWCAST_REPLICA.name)
            row = read_row(connection, self._settings.source) if found else None
        if row is None:
            raise NotReadyError(
                f"{self._label} has no rows of source {self._settings.source!r}: no worker has ever run. Start "
                f"`rowcast worker {self._name}`."
            )
        return row

    def _require_ready(self) -> None:
        self._lost = require_ready(self._settings, self._name, self._options.accept_lost)
        shapes, gone = self._find_shapes()
        require_whole(self._settings, self._name, shapes, gone, accept_partial=self._options.accept_partial)

    def _shapes(self) -> list[TableShape]:
        return self._find_shapes()[0]

    def _find_shapes(self) -> tuple[list[TableShape], list[TableShape]]:
        """Return the shapes of the existing tables, and of the missing tables."""
        found: tuple[list[TableShape], list[TableShape]] = ([], [])
        with self._engine.connect() as connection:
            inspector = sa.inspect(connection)
            for shape in TableRecords(self._settings.source).shapes(connection):
                schema, name = replica_name(shape, self._replica_dialect)
                found[not inspector.has_table(name, schema)].append(shape)
        return found

    def _check_constraints(self, replica: Replica) -> None:
        if not replica.check_constraints(self._shapes()):
            raise NotReadyError(
                f"{self._label} is not promoted: rows violate constraints of the source, as the log says. Promote "
                f"another replica, or rebuild this one while the source lives: rowcast rebuild {self._name}"
            )

    def _plan(self) -> Plan:
        plan = Plan()
        with self._engine.connect() as connection:
            self._dialect.prepare(connection)
            with connection.begin():
                tables = existing_tables(connection, self._settings.source, self._replica_dialect, self._dialect)
                for table in tables:
                    self._dialect.plan(connection, table, plan)
                    for note in notes_of(table, self._dialect.engine):
                        plan.note(note)
            if doubles_percents(connection):
                plan.steps = [
                    replace(step, statements=_undoubled(step.statements), remedy=_undoubled(step.remedy))
                    for step in plan.steps
                ]
        return plan

    def _carry_out(self) -> tuple[list[str], list[str]]:
        """Change the tables, and create the outbox tables. Return the statements, and the tasks for a person."""
        plan = self._plan()
        executed: list[str] = []
        with self._engine.connect() as connection:
            while not self._carry_out_plan(connection, plan, executed):
                plan = self._plan()
        for _, create in load_contributions(PROMOTION):
            create_outbox: _CreateOutbox = create
            for table in create_outbox(self._engine.url, self._shapes()):
                _log.info("table %s created", table)
        return executed, plan.notes

    def _carry_out_plan(self, connection: Connection, plan: Plan, executed: list[str]) -> bool:
        """Execute the steps, and add their statements to ``executed``. Return False if a new plan must be made."""
        for step in plan.steps:
            try:
                if self._execute_in_time(connection, step, plan):
                    executed += step.statements
            except DataError as error:
                if not step.remedy:
                    raise
                _log.info("%s", error)
                self._execute_in_time(connection, Step(step.table, step.remedy), plan)
                executed += step.remedy
                return False
        return True

    def _execute_in_time(self, connection: Connection, step: Step, plan: Plan) -> bool:
        """Execute a step, however long readers hold the table. Return as ``_execute``. Raise RetriableError."""
        backoff = Backoff(0.2, 5.0)
        while True:
            self._dialect.prepare(connection)
            try:
                return self._execute(connection, step, plan)
            except exc.DBAPIError as error:
                reason = self._replica_dialect.reason(error)
                if self._replica_dialect.classify(error) is not Fault.TRANSIENT or self._stop.is_set():
                    raise RetriableError(f"{self._label}: {reason}. Run rowcast promote {self._name} again") from error
            pause = backoff.next_pause()
            _log.info("table %s: %s. Trying again in %.1f s", step.table, reason, pause)
            self._stop.wait(pause)

    def _execute(self, connection: Connection, step: Step, plan: Plan) -> bool:
        """Execute a step. Return False if the engine refuses an optional step."""
        doubled = doubles_percents(connection)
        try:
            with connection.begin():
                for statement in step.statements:
                    _log.info("%s: %s", step.table, statement)
                    connection.exec_driver_sql(statement.replace("%", "%%") if doubled else statement)
        except exc.DBAPIError as error:
            if self._replica_dialect.classify(error) in (Fault.LOST, Fault.TRANSIENT):
                raise
            reason = self._replica_dialect.reason(error)
            statements = ", then ".join(step.statements)
            if not step.is_optional:
                raise DataError(
                    f"{self._label}: the database refused to promote {step.table}: {reason}. The statement: "
                    f"{statements}. Remove the cause, and run rowcast promote {self._name} again: it goes on from "
                    "here."
                ) from error
            plan.note(f"{step.table}: the database refused ({reason}): {statements}")
            return False
        return True

    def _result(
        self, statements: Sequence[str], notes: Sequence[str], row: ReplicaRow, *, was_done: bool = False
    ) -> PromotionResult:
        with self._engine.connect() as connection:
            schema = default_schema(connection.dialect)
        return PromotionResult(
            self._name, tuple(statements), tuple(notes), self._lost, row.timeline + 1, tuple(self._shapes()), schema,
            was_done,
        )  # fmt: skip


def _undoubled(statements: Sequence[str]) -> tuple[str, ...]:
    return tuple(statement.replace("%%", "%") for statement in statements)
