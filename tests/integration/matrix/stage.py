"""Cases, and the stage that plays them: every case on one primary, through relay and worker, to one replica.

A case is a function that defines tables of its own on a `Stage` and says what an application does to them: `seed`,
each in a transaction, before the replica is consistent; `work`, each in a transaction, after. A step that raises fails
its own case alone.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from fix_databases import ENGINES
from replicas import settings_for, work_once
from rowcast.producer import Capture
from rowcast.producer.relay import run_relay
from rowcast.shared.databases import open_engine

Step = Callable[[Session], None]
Rows = dict[tuple[str, tuple[Any, ...]], tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """One thing that an application does. ``changes``: its work leaves other rows than its seed."""

    name: str
    define: Callable[[Stage], None]
    engines: tuple[str, ...]
    changes: bool


CASES: dict[str, Case] = {}


def case(*engines: str, changes: bool = True) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Adds a case for the engines named, all if none is."""

    def add(define: Callable[[Stage], None]) -> Callable[[Stage], None]:
        name = define.__name__
        assert name not in CASES, f"two cases are called {name}"
        CASES[name] = Case(name, define, engines or ENGINES, changes)
        return define

    return add


class Stage:
    """What a case defines: tables, and the application's steps."""

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
        """A schema that is not the default one."""
        self.capture: Capture

    def table(self, name: str, *columns: sa.schema.SchemaItem, **options: Any) -> sa.Table:
        """A table of the metadata that is captured."""
        return sa.Table(name, self.metadata, *columns, **options)

    def copy(self, table: sa.Table) -> None:
        """A table that is not in the metadata, and is to be compared too."""
        self.copies.append(table)

    def seed(self, step: Step) -> Step:
        """What the application did before."""
        self.steps["seed"].append(step)
        return step

    def work(self, step: Step) -> Step:
        """What the case is about."""
        self.steps["work"].append(step)
        return step


@dataclass
class Outcome:
    """A case after it was played."""

    tables: dict[str, sa.Table]
    seeded: Rows = field(default_factory=dict)
    error: BaseException | None = None


class Played:
    """All cases of one engine, played through relay and worker."""

    def __init__(
        self, engine_name: str, primary_url: str, replica_url: str, schema: str, kafka: str, source: str
    ) -> None:
        self.engine = sa.create_engine(primary_url)
        prepare_connections(self.engine, schema)
        if self.engine.dialect.name != "sqlite":
            with self.engine.begin() as connection:
                connection.execute(sa.schema.CreateSchema(schema))
        self.replica = open_engine(replica_url, "replica", pooled=False)
        self.outcomes: dict[str, Outcome] = {}
        self._settings = settings_for(source, kafka, replica_url, primary_url)
        metadata = sa.MetaData()
        stages = {
            c.name: self._define(c, Stage(self.engine, metadata, schema))
            for c in CASES.values()
            if engine_name in c.engines
        }
        self.capture = Capture(metadata, source=source)
        for stage in stages.values():
            stage.capture = self.capture
            self.capture.install(stage.sessions)
        metadata.create_all(self.engine)
        for name, stage in stages.items():
            self._play(stage, "seed", self.outcomes[name])
            self.outcomes[name].seeded = _rows(self.engine, self.outcomes[name].tables)
        self._transport()
        for name, stage in stages.items():
            self._play(stage, "work", self.outcomes[name])
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
        """Raises AssertionError, naming the rows, unless both databases have the same; raises what a step raised."""
        outcome = self.outcomes[name]
        if outcome.error is not None:
            raise outcome.error
        expected = _rows(self.engine, outcome.tables)
        got = _rows(self.replica, {n: _as_on_replica(n, t) for n, t in outcome.tables.items()})
        differing = [key for key in expected.keys() | got.keys() if expected.get(key) != got.get(key)]
        lines = [f"{key}: {expected.get(key)} became {got.get(key)}" for key in sorted(differing, key=repr)[:10]]
        assert not differing, f"{len(differing)} rows differ:\n" + "\n".join(lines)
        assert (expected != outcome.seeded) == CASES[name].changes, "the case does not do what it says"

    def close(self) -> None:
        """Lets the databases go."""
        self.engine.dispose()
        self.replica.dispose()


def prepare_connections(engine: sa.Engine, schema: str) -> None:
    """Foreign keys, patience and a second schema, where the engine needs to be asked for them."""
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
    """A schema that is not the default one begins the name, except on PostgreSQL."""
    if table.schema is None:
        return str(table.name)
    return f"{table.schema}.{table.name}" if primary.dialect.name == "postgresql" else f"{table.schema}_{table.name}"


def _as_on_replica(name: str, table: sa.Table) -> sa.Table:
    schema = table.schema if table.schema is not None and name == f"{table.schema}.{table.name}" else None
    plain = table.name if schema is not None or table.schema is None else name
    columns = [sa.Column(c.name, c.type, primary_key=c.primary_key) for c in table.columns]
    return sa.Table(plain, sa.MetaData(), *columns, schema=schema)


def _rows(database: sa.Engine, tables: dict[str, sa.Table]) -> Rows:
    """As Python values, by table and primary key."""
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
