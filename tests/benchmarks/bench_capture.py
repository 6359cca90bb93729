"""Measure the cost of the capture for the application: commits and flushes with capture, beside a plain session.

    python -m benchmarks.bench_capture URL [--generations N] [--rounds N]

Contestants alternate in small blocks, each in a separate process and on separate tables, so a drift of the machine's
speed meets all contestants. Two processes with equal work differ by several percent as long as they live, because their
data lie at different places in memory. The benchmark therefore runs several generations of processes. Each generation
gives the ratio of two medians of blocks, and the benchmark prints the median of the ratios.

``plain_again`` is a second plain session and shows how exact the ratios are. ``python`` is an outbox as an application
would write by hand: a row for each change, serialised in Python from the attributes. ``continuum`` is
SQLAlchemy-Continuum with its defaults. ``continuum_subquery`` uses the cheaper strategy, without a search for the last
version (dependency group ``bench``).

Rows and bytes of the write-ahead log are printed for one change. Rows are inserted and updated rows, including the
application's rows. The figures come from the statistics of the whole server, PostgreSQL 15 or later, so nothing else
may write there.
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
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, configure_mappers, mapped_column, sessionmaker

from rowcast.producer import Capture
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.triggers.install import install
from rowcast.producer.triggers.reflected_tables import ReflectedTables

ROWS = 20_000
FAMILIES_BEFORE = 100
"""Parents with children that a block leaves alone."""


class Contestant:
    """Write rows in one way, to separate tables."""

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

        class Parent(Base):
            __tablename__ = f"bench_parents_{name}"
            id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)

        class Child(Base):
            __tablename__ = f"bench_children_{name}"
            id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
            parent_id: Mapped[int] = mapped_column(sa.ForeignKey(Parent.id, ondelete="CASCADE"), index=True)

        self.name = name
        self.engine = engine
        self.order, self.parent, self.child = Order, Parent, Child
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
        """Read a row, update a row, insert a row, and commit, in each transaction."""
        for _ in range(transactions):
            with self.sessions() as session:
                session.get(self.order, self.random.randrange(1, ROWS))
                changed = session.get_one(self.order, self.random.randrange(1, ROWS))
                changed.status = f"s{self.random.random()}"
                session.add(self.order(**self.values()))
                session.commit()

    def flush(self, objects: int) -> None:
        with self.sessions() as session:
            session.add_all([self.order(**self.values()) for _ in range(objects)])
            session.commit()

    def flush_without_keys(self, objects: int) -> None:
        """Let the database create the keys.

        A statement then inserts a thousand rows, while `flush` sends a statement for each row.
        """
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

    def delete_parents(self, parents: int) -> None:
        """Delete parents through the unit of work. The database deletes their children."""
        with self.sessions() as session:
            chosen = sa.select(self.parent).order_by(self.parent.id.desc()).limit(parents)
            for parent in session.scalars(chosen).all():
                session.delete(parent)
            session.commit()

    def upsert(self, rows: int) -> None:
        """Insert rows of which half exist already, and update those that exist."""
        values = [{**self.values(), "id": self.random.randrange(1, ROWS)} for _ in range(rows // 2)]
        values += [self.values() for _ in range(rows - len(values))]
        insert = postgresql.insert(self.order)
        update = {"status": insert.excluded.status, "updated_at": insert.excluded.updated_at}
        with self.sessions() as session:
            for each in values:
                session.execute(insert.on_conflict_do_update(index_elements=["id"], set_=update).values(each))
            session.commit()

    def refill(self, parents: int) -> None:
        """Let there be the parents that a block deletes, with three children each. No capture sees the rows."""
        last = FAMILIES_BEFORE + parents
        parent, child = self.parent.__tablename__, self.child.__tablename__
        with self.engine.begin() as connection:
            for table, columns, rows in ((parent, "n", last), (child, "n, (n + 2) / 3", last * 3)):
                series = f"SELECT {columns} FROM generate_series(1, {rows}) AS n"
                fill = sa.text(f"INSERT INTO {table} {series} ON CONFLICT DO NOTHING")
                connection.execute(fill, execution_options={"rowcast": "ignore"})

    def sweep(self) -> None:
        """Empty the outbox like a relay, because the outbox must not grow without end."""


class Captured(Contestant):
    def __init__(self, name: str, engine: sa.Engine) -> None:
        super().__init__(name, engine)
        self.capture = Capture(self.metadata, source="bench")
        self.capture.install(self.sessions)

    def sweep(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(self.metadata.tables["rowcast_outbox"].delete())


class Triggers(Contestant):
    """Let triggers write the outbox. The application has no listeners."""

    def __init__(self, name: str, engine: sa.Engine) -> None:
        super().__init__(name, engine)
        outbox_tables(self.metadata)

    def prepare(self) -> None:
        super().prepare()
        with self.engine.begin() as connection:
            (table,) = ReflectedTables(self.metadata).read(connection, [(None, self.order.__tablename__)])
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
    """Write through SQLAlchemy-Continuum, with listeners on every mapper, session and engine of the process."""

    versioned: ClassVar = {}

    def __init__(self, name: str, engine: sa.Engine) -> None:
        from sqlalchemy_continuum import make_versioned, version_class

        make_versioned(user_cls=None)
        super().__init__(name, engine)
        configure_mappers()
        self.versions: sa.Table = version_class(self.order).__table__

    def prepare(self) -> None:
        """Give the rows a history as in an application, because an UPDATE then also ends a version."""
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
# The contestants that see statements. All others see only the unit of work.
SEE_STATEMENTS = ("plain", "plain_again", "rowcast", "triggers")
# The triggers of this benchmark are on a single table.
SEE_LISTENERS = ("plain", "plain_again", "rowcast")


def serve(name: str, url: str, commands: Connection) -> None:
    """Execute the commands of the parent process, and answer each with its duration in seconds."""
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
    """Run a contestant in a separate process."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        processes = multiprocessing.get_context("spawn")
        self.commands, theirs = processes.Pipe()
        self.process = processes.Process(target=serve, args=(name, url, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def do(self, method: str, *arguments: int) -> float:
        self.commands.send((method, *arguments))
        return float(self.commands.recv())

    def stop(self) -> None:
        self.commands.send(None)
        self.process.join()


def written(connection: sa.Connection) -> tuple[int, int]:
    """Return the number of rows and the bytes of the write-ahead log written by the server."""
    query = "SELECT sum(n_tup_ins + n_tup_upd)::bigint, (pg_current_wal_insert_lsn() - '0/0')::bigint"
    rows, log = connection.execute(sa.text(f"{query} FROM pg_stat_user_tables")).one()
    return rows, log


@dataclass(frozen=True)
class Workload:
    """Describe the work of each contestant.

    A block has ``size`` transactions, objects or rows, and ``changes`` changes.
    """

    what: str
    method: str
    size: int
    changes: int
    share: float = 1.0
    """The share of the rounds in which the workload runs."""
    seen_by: Collection[str] = tuple(KINDS)
    prepared_by: str = ""
    """The method that runs before each block, with the size, outside the measured time."""


WORKLOADS = (
    Workload("OLTP mix, 50 transactions", "oltp", 50, 100),
    Workload("flush of 10,000 objects", "flush", 10_000, 10_000, 0.25),
    Workload("the same, keys drawn", "flush_without_keys", 10_000, 10_000, 0.25),
    Workload("update().where() of 10,000", "update_where", 10_000, 10_000, 0.25, SEE_STATEMENTS),
    Workload("delete of 500 parents", "delete_parents", 500, 2_000, 0.25, SEE_LISTENERS, prepared_by="refill"),
    Workload("200 upserts", "upsert", 200, 200, 0.5, SEE_LISTENERS),
)


@dataclass
class Measured:
    """Hold the results of a contestant for a workload.

    ``seconds``: the seconds of each block, by generation. ``written``: rows and bytes for each change, by block.
    """

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
        """Measure each workload once, in new processes."""
        contestants = [Served(name, self.url) for name in self.names]
        for contestant in contestants:
            contestant.do("prepare")
        for workload in workloads:
            self.measure(workload, [c for c in contestants if c.name in workload.seen_by])
        for contestant in contestants:
            contestant.stop()

    def measure(self, workload: Workload, contestants: list[Served]) -> None:
        for contestant in contestants:
            if workload.prepared_by:
                contestant.do(workload.prepared_by, workload.size)
            contestant.do(workload.method, workload.size)
            self.measured[workload, contestant.name].seconds.append([])
        for _ in range(max(2, round(self.rounds * workload.share))):
            for contestant in random.sample(contestants, len(contestants)):
                if workload.prepared_by:
                    contestant.do(workload.prepared_by, workload.size)
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
