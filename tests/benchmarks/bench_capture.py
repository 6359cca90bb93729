"""What the capture costs the application: commits and flushes with it, against a plain session, side by side.

    python tests/benchmarks/bench_capture.py URL [--generations N] [--rounds N]

Contestants alternate in small blocks, each in a process of its own and on tables of its own: this is how a machine
whose speed drifts can still be believed. Two processes that do the same differ by several percent for as long as they
live, by what lies where in memory; so there are several generations of them, and what is printed is the median of
their ratios, each that of a generation's median blocks. ``plain_again`` is a second plain session: it says what to
think of the others' last digits. ``python`` is the outbox that an application would write by hand: one row per change,
serialised in Python from the attributes. ``continuum`` is SQLAlchemy-Continuum as it comes, ``continuum_subquery`` the
same with the cheaper of its two strategies, which does not look for the version before (dependency group ``bench``).

Rows (inserted and updated, its own included) and bytes of the write-ahead log are those of one change. They are read
from the server as a whole, PostgreSQL 15 or later, so nothing else may write there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing.connection import Connection
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, configure_mappers, mapped_column, sessionmaker

from rowcast.producer import Capture
from rowcast.producer.outbox import outbox_tables
from rowcast.producer.triggers.definitions import Definitions
from rowcast.producer.triggers.installing import install

ROWS = 20_000


class Contestant:
    """One way to write, with tables of its own."""

    versioned: ClassVar[dict[str, Any] | None] = None

    def __init__(self, name: str, engine: sa.Engine) -> None:
        class Base(DeclarativeBase):
            pass

        class Order(Base):
            __tablename__ = f"bench_orders_{name}"
            if self.versioned is not None:
                __versioned__ = self.versioned
            id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
            customer_id: Mapped[int] = mapped_column(sa.BigInteger)
            status: Mapped[str] = mapped_column(sa.Text)
            amount: Mapped[Decimal] = mapped_column(sa.Numeric(12, 2))
            note: Mapped[str] = mapped_column(sa.Text)
            created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))
            updated_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))

        self.name = name
        self.engine = engine
        self.order = Order
        self.metadata = Base.metadata
        self.sessions = sessionmaker(engine)
        self.next_id = 1
        self.random = random.Random(7)

    def prepare(self) -> None:
        self.metadata.drop_all(self.engine)
        self.metadata.create_all(self.engine)
        with self.sessions() as session:
            session.execute(sa.insert(self.order), [self.values() for _ in range(ROWS)])
            sequence = sa.func.pg_get_serial_sequence(self.order.__tablename__, "id")
            session.execute(sa.select(sa.func.setval(sequence, 10**9)))
            session.commit()
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text(f"ANALYZE {self.order.__tablename__}"))

    def values(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        self.next_id += 1
        return {
            "id": self.next_id - 1, "customer_id": self.next_id % 1000, "status": "new", "amount": Decimal("12.34"),
            "note": "a note of some length for the order", "created_at": now, "updated_at": now,
        }  # fmt: skip

    def oltp(self, transactions: int) -> None:
        """Read one, update one, insert one, commit."""
        for _ in range(transactions):
            with self.sessions() as session:
                session.get(self.order, self.random.randrange(1, ROWS))
                changed = session.get(self.order, self.random.randrange(1, ROWS))
                changed.status = f"s{self.random.random()}"
                session.add(self.order(**self.values()))
                session.commit()

    def flush(self, objects: int) -> None:
        with self.sessions() as session:
            session.add_all([self.order(**self.values()) for _ in range(objects)])
            session.commit()

    def flush_without_keys(self, objects: int) -> None:
        """The database draws the keys: a thousand rows a statement, where `flush` sends one of each row."""
        with self.sessions() as session:
            session.add_all([self.order(**{**self.values(), "id": None}) for _ in range(objects)])
            session.commit()

    def update_where(self, rows: int) -> None:
        with self.sessions() as session:
            session.execute(
                sa.update(self.order).where(self.order.id <= rows).values(status="u"),
                execution_options={"synchronize_session": False},
            )
            session.commit()

    def sweep(self) -> None:
        """What a relay would do: the outbox does not grow without end."""


class Captured(Contestant):
    def __init__(self, name: str, engine: sa.Engine) -> None:
        super().__init__(name, engine)
        self.capture = Capture(self.metadata, source="bench")
        self.capture.install(self.sessions)

    def sweep(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(self.metadata.tables["rowcast_outbox"].delete())


class Triggers(Contestant):
    """The application has no listeners at all; triggers write the outbox."""

    def __init__(self, name: str, engine: sa.Engine) -> None:
        super().__init__(name, engine)
        outbox_tables(self.metadata)

    def prepare(self) -> None:
        super().prepare()
        with self.engine.begin() as connection:
            (table,) = Definitions(self.metadata).read(connection, [(None, self.order.__tablename__)])
            install(connection, table)

    def sweep(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(self.metadata.tables["rowcast_outbox"].delete())


class PythonOutbox(Contestant):
    def __init__(self, name: str, engine: sa.Engine) -> None:
        super().__init__(name, engine)
        self.outbox = sa.Table(
            "bench_outbox_python",
            self.metadata,
            sa.Column("id", sa.BigInteger, primary_key=True),
            sa.Column("body", sa.Text),
        )
        event.listen(self.sessions, "after_flush", self.record)

    def record(self, session: Session, _context: Any) -> None:
        changes = [("c", o) for o in session.new] + [("u", o) for o in session.dirty]
        changes += [("d", o) for o in session.deleted]
        if changes:
            session.execute(
                sa.insert(self.outbox), [{"body": json.dumps({"op": op, "after": self.image(o)})} for op, o in changes]
            )

    def image(self, instance: Any) -> dict[str, Any]:
        state = {c.key: getattr(instance, c.key) for c in sa.inspect(instance).mapper.column_attrs}
        return {k: v if isinstance(v, int | str | None) else str(v) for k, v in state.items()}

    def sweep(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(self.outbox.delete())


class Continuum(Contestant):
    """SQLAlchemy-Continuum, which listens to every mapper, session and engine of its process."""

    versioned: ClassVar = {}

    def __init__(self, name: str, engine: sa.Engine) -> None:
        from sqlalchemy_continuum import make_versioned, version_class

        make_versioned(user_cls=None)
        super().__init__(name, engine)
        configure_mappers()
        self.versions: sa.Table = version_class(self.order).__table__

    def prepare(self) -> None:
        """The rows have a history, as they would in an application: an update then ends a version."""
        super().prepare()
        names = [c.name for c in self.order.__table__.columns]
        rows = sa.select(*self.order.__table__.columns, sa.literal(0), sa.literal(0))
        with self.engine.begin() as connection:
            names += ["transaction_id", "operation_type"]
            connection.execute(sa.insert(self.versions).from_select(names, rows))
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text(f"ANALYZE {self.versions.name}"))


class ContinuumSubquery(Continuum):
    versioned: ClassVar = {"strategy": "subquery"}


KINDS = {
    "plain": Contestant, "plain_again": Contestant, "rowcast": Captured, "triggers": Triggers, "python": PythonOutbox,
    "continuum_subquery": ContinuumSubquery, "continuum": Continuum,
}  # fmt: skip
# The others see only the unit of work.
SEE_STATEMENTS = ("plain", "plain_again", "rowcast", "triggers")


def serve(name: str, url: str, commands: Connection) -> None:
    """Does what it is told, and answers with the seconds that it took."""
    contestant = KINDS[name](name, sa.create_engine(url))
    flush_statistics = sa.select(sa.func.pg_stat_force_next_flush())
    while (command := commands.recv()) is not None:
        method, *arguments = command
        start = time.perf_counter()
        getattr(contestant, method)(*arguments)
        seconds = time.perf_counter() - start
        with contestant.engine.connect() as connection:
            connection.execute(flush_statistics)
        commands.send(seconds)


class Served:
    """A contestant in a process of its own."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        processes = multiprocessing.get_context("spawn")
        self.commands, theirs = processes.Pipe()
        self.process = processes.Process(target=serve, args=(name, url, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def do(self, method: str, *arguments: int) -> float:
        self.commands.send((method, *arguments))
        return self.commands.recv()

    def stop(self) -> None:
        self.commands.send(None)
        self.process.join()


def written(connection: sa.Connection) -> tuple[int, int]:
    """Rows and bytes that the server has written so far."""
    query = "SELECT sum(n_tup_ins + n_tup_upd)::bigint, (pg_current_wal_insert_lsn() - '0/0')::bigint"
    rows, log = connection.execute(sa.text(f"{query} FROM pg_stat_user_tables")).one()
    return rows, log


@dataclass(frozen=True)
class Workload:
    """What each contestant does, in blocks of ``size`` transactions, objects or rows: ``changes`` changes."""

    what: str
    method: str
    size: int
    changes: int
    share: float = 1.0
    """Of the rounds."""
    seen_by: Collection[str] = tuple(KINDS)


WORKLOADS = (
    Workload("OLTP mix, 50 transactions", "oltp", 50, 100),
    Workload("flush of 10,000 objects", "flush", 10_000, 10_000, 0.25),
    Workload("the same, keys drawn", "flush_without_keys", 10_000, 10_000, 0.25),
    Workload("update().where() of 10,000", "update_where", 10_000, 10_000, 0.25, SEE_STATEMENTS),
)


@dataclass
class Measured:
    """One contestant's blocks of one workload: by generation, the seconds of each; of each, rows and bytes a change."""

    seconds: list[list[float]] = field(default_factory=list)
    written: list[tuple[float, float]] = field(default_factory=list)

    def median(self) -> float:
        return statistics.median(second for generation in self.seconds for second in generation)


class Bench:
    def __init__(self, url: str, without: Collection[str], rounds: int) -> None:
        self.url = url
        self.names = [name for name in KINDS if name not in without]
        self.rounds = rounds
        self.observer = sa.create_engine(url, isolation_level="AUTOCOMMIT").connect()
        self.measured = {(w, name): Measured() for w in WORKLOADS for name in self.names if name in w.seen_by}

    def generation(self, workloads: Collection[Workload]) -> None:
        """Each workload once, by new processes."""
        contestants = [Served(name, self.url) for name in self.names]
        for contestant in contestants:
            contestant.do("prepare")
        for workload in workloads:
            self.measure(workload, [c for c in contestants if c.name in workload.seen_by])
        for contestant in contestants:
            contestant.stop()

    def measure(self, workload: Workload, contestants: list[Served]) -> None:
        for contestant in contestants:
            contestant.do(workload.method, workload.size)
            self.measured[workload, contestant.name].seconds.append([])
        for _ in range(max(2, round(self.rounds * workload.share))):
            for contestant in random.sample(contestants, len(contestants)):
                contestant.do("sweep")
                before = written(self.observer)
                measured = self.measured[workload, contestant.name]
                measured.seconds[-1].append(contestant.do(workload.method, workload.size))
                rows, log = (b - a for a, b in zip(before, written(self.observer), strict=True))
                measured.written.append((rows / workload.changes, log / workload.changes))

    def print(self, workloads: Collection[Workload]) -> None:
        for workload in workloads:
            plain = self.measured[workload, "plain"]
            for name in self.names:
                if name not in workload.seen_by:
                    print(f"{workload.what:<28} {name:<18} does not see it")
                    continue
                own = self.measured[workload, name]
                medians = [map(statistics.median, m.seconds) for m in (plain, own)]
                ratios = sorted(p / t for p, t in zip(*medians, strict=True))
                rows, log = (statistics.median(amount) for amount in zip(*own.written, strict=True))
                print(
                    f"{workload.what:<28} {name:<18} {own.median() * 1000:9.1f} ms a block"
                    f"   {statistics.median(ratios):.2f}x plain  ({ratios[0]:.2f} to {ratios[-1]:.2f} in"
                    f" {len(ratios)} generations)   {rows:5.2f} rows and {log:6,.0f} bytes a change"
                )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--generations", type=int, default=5, help="how often the processes are new")
    parser.add_argument("--rounds", type=int, default=12, help="blocks in a generation; of the large ones a quarter")
    parser.add_argument("--without", nargs="*", choices=[*KINDS][1:], default=[], help="leave these contestants out")
    parser.add_argument("--only", nargs="*", choices=[w.method for w in WORKLOADS], default=[], help="these workloads")
    arguments = parser.parse_args()
    workloads = [w for w in WORKLOADS if not arguments.only or w.method in arguments.only]
    bench = Bench(arguments.url, arguments.without, arguments.rounds)
    for _ in range(arguments.generations):
        bench.generation(workloads)
    bench.print(workloads)


if __name__ == "__main__":
    main()
