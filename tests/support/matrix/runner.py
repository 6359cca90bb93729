"""Define cases, and play every case of an engine on one primary, through relay and worker, to one replica.

A case is a function. The function defines tables on a `Stage`, and the steps of an application. Each step runs in a
transaction. `seed` steps run before the replica is consistent, `work` steps afterwards. An error in a step fails only
the test of the case.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from fixtures.databases import ENGINES
from rowcast.producer import Capture
from rowcast.producer.relay import run_relay
from rowcast.shared.database.engines import open_engine
from support.drivers import DriverEngine, with_driver
from support.worker_runs import settings_for, work_once

Step = Callable[[Session], None]
Rows = dict[tuple[str, tuple[Any, ...]], tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """Describe a use of rowcast by an application.

    ``changes``: after the work, the rows differ from the seeded rows.
    """

    name: str
    define: Callable[[Stage], None]
    engines: tuple[str, ...]
    changes: bool


CASES: dict[str, Case] = {}


def case(*engines: str, changes: bool = True) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Register a case for the named engines, or for all engines if no name is given."""

    def add(define: Callable[[Stage], None]) -> Callable[[Stage], None]:
        name = define.__name__
        assert name not in CASES, f"two cases are called {name}"
        CASES[name] = Case(name, define, engines or ENGINES, changes)
        return define

    return add


class Stage:
    """Collect the tables and the application's steps that a case defines."""

    def __init__(self, engine: sa.Engine, metadata: sa.MetaData, schema: str) -> None:
        class Base(DeclarativeBase):
            pass

        Base.metadata = metadata
        self.Base = Base
        self.engine = engine
        self.metadata = metadata
        self.dialect = engine.dialect.name
        self.sessions: sessionmaker[Session] = sessionmaker(engine)
        self.steps: dict[str, list[Step]] = {"seed": [], "work": []}
        self.copies: list[sa.Table] = []
        self.schema = schema
        """A schema besides the default schema."""
        self.capture: Capture

    def table(self, name: str, *columns: sa.schema.SchemaItem, **options: Any) -> sa.Table:
        """Define a captured table."""
        return sa.Table(name, self.metadata, *columns, **options)

    def copy(self, table: sa.Table) -> None:
        """Compare a further table, outside the metadata of the capture."""
        self.copies.append(table)

    def seed(self, step: Step) -> Step:
        """Add a step that runs before the replica is consistent."""
        self.steps["seed"].append(step)
        return step

    def work(self, step: Step) -> Step:
        """Add a step that runs while the replica is consistent."""
        self.steps["work"].append(step)
        return step


@dataclass
class Outcome:
    """Hold the tables of a played case, the seeded rows, and the error of a failed step."""

    tables: dict[str, sa.Table]
    seeded: Rows = field(default_factory=dict)
    error: BaseException | None = None


class Played:
    """Play all cases of one engine through relay and worker."""

    def __init__(
        self,
        engine_name: str,
        primary_url: str,
        replica_url: str,
        schema: str,
        kafka: str,
        source: str,
        driver: str | None = None,
    ) -> None:
        self._application = DriverEngine(with_driver(primary_url, driver))
        self.engine = self._application.engine
        prepare_connections(self.engine, schema)
        if self.engine.dialect.name != "sqlite":
            self._application.run(_create_schema, self.engine, schema)
        self.replica = open_engine(replica_url, "replica", pooled=False)
        self.outcomes: dict[str, Outcome] = {}
        self._settings = settings_for(source, kafka, replica_url, primary_url)
        metadata = sa.MetaData()
        stages = {
            c.name: self._application.run(self._define, c, Stage(self.engine, metadata, schema))
            for c in CASES.values()
            if engine_name in c.engines
        }
        self.capture = Capture(metadata, source=source)
        for stage in stages.values():
            stage.capture = self.capture
            self.capture.install(stage.sessions)
        self._application.run(metadata.create_all, self.engine)
        for name, stage in stages.items():
            self._application.run(self._play, stage, "seed", self.outcomes[name])
            self.outcomes[name].seeded = self._application.run(_rows, self.engine, self.outcomes[name].tables)
        self._transport()
        for name, stage in stages.items():
            self._application.run(self._play, stage, "work", self.outcomes[name])
        self._transport()

    def _define(self, one: Case, stage: Stage) -> Stage:
        before = set(stage.metadata.tables)
        one.define(stage)
        stage.Base.registry.configure()
        own = [t for name, t in stage.metadata.tables.items() if name not in before and t.info.get("rowcast", True)]
        self.outcomes[one.name] = Outcome({_replica_name(t, self.engine): t for t in [*own, *stage.copies]})
        return stage

    def _play(self, stage: Stage, part: str, outcome: Outcome) -> None:
        for step in stage.steps[part]:
            if outcome.error is not None:
                return
            try:
                with warnings.catch_warnings(), stage.sessions() as session:
                    warnings.simplefilter("error")
                    step(session)
                    session.commit()
            except Exception as error:  # noqa: BLE001  # the case's own test raises it
                outcome.error = error

    def _transport(self) -> None:
        run_relay(self._settings, once=True, stop=threading.Event())
        work_once(self._settings)

    def compare(self, name: str) -> None:
        """Compare the rows of a case in primary and replica.

        Raises AssertionError with the differing rows, or the error of a failed step.
        """
        outcome = self.outcomes[name]
        if outcome.error is not None:
            raise outcome.error
        expected = self._application.run(_rows, self.engine, outcome.tables)
        got = _rows(self.replica, {n: _as_on_replica(n, t) for n, t in outcome.tables.items()})
        differing = [key for key in expected.keys() | got.keys() if expected.get(key) != got.get(key)]
        lines = [f"{key}: {expected.get(key)} became {got.get(key)}" for key in sorted(differing, key=repr)[:10]]
        assert not differing, f"{len(differing)} rows differ:\n" + "\n".join(lines)
        assert (expected != outcome.seeded) == CASES[name].changes, "the case does not do what it says"

    def close(self) -> None:
        """Close the connections to both databases."""
        self._application.close()
        self.replica.dispose()


def _create_schema(engine: sa.Engine, schema: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))


def prepare_connections(engine: sa.Engine, schema: str) -> None:
    """Turn on foreign keys, a lock timeout and the second schema, where the engine does not have them by default."""
    if engine.dialect.name != "sqlite":
        return

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA busy_timeout=30000")
        cursor.execute(f"ATTACH '{engine.url.database}-{schema}' AS {schema}")
        cursor.close()


def _replica_name(table: sa.Table, primary: sa.Engine) -> str:
    """Return the name of the table on the replica.

    Except on PostgreSQL, the name begins with the schema if the schema is not the default schema.
    """
    if table.schema is None:
        return str(table.name)
    return f"{table.schema}.{table.name}" if primary.dialect.name == "postgresql" else f"{table.schema}_{table.name}"


def _as_on_replica(name: str, table: sa.Table) -> sa.Table:
    schema = table.schema if table.schema is not None and name == f"{table.schema}.{table.name}" else None
    plain = table.name if schema is not None or table.schema is None else name
    columns = [sa.Column(c.name, c.type, primary_key=c.primary_key) for c in table.columns]
    return sa.Table(plain, sa.MetaData(), *columns, schema=schema)


def _rows(database: sa.Engine, tables: dict[str, sa.Table]) -> Rows:
    """Return the rows as Python values, by table and primary key."""
    found: Rows = {}
    with database.connect() as connection:
        for name, table in tables.items():
            key = [str(c.name) for c in table.primary_key.columns]
            for row in connection.execute(sa.select(*(c.label(f"c{i}") for i, c in enumerate(table.columns)))):
                values = dict(zip((str(c.name) for c in table.columns), map(_comparable, row), strict=True))
                found[name, tuple(values[k] for k in key)] = tuple(values.items())
    return found


def _comparable(value: Any) -> Any:
    return repr(value) if isinstance(value, dict | list) else value
