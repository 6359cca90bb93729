"""What the capture costs the application: commits and flushes with it, against a plain session, side by side.

    python tests/benchmarks/bench_capture.py URL [--rounds N]

Contestants alternate in small blocks, each on tables of its own, and the median of the paired ratios is printed: this
is how a machine whose speed drifts can still be believed. ``python`` is the outbox that an application would write by
hand: one row per change, serialised in Python from the attributes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from rowcast.producer import Capture
from rowcast.producer.outbox import outbox_tables
from rowcast.producer.triggers.definitions import Definitions
from rowcast.producer.triggers.installing import install

ROWS = 20_000


class Contestant:
    """One way to write, with tables of its own."""

    def __init__(self, name: str, engine: sa.Engine) -> None:
        class Base(DeclarativeBase):
            pass

        class Order(Base):
            __tablename__ = f"bench_orders_{name}"
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


def measure(what: str, work: Callable[[Contestant], None], contestants: list[Contestant], rounds: int) -> None:
    times: dict[str, list[float]] = {c.name: [] for c in contestants}
    for contestant in contestants:
        work(contestant)
    for i in range(rounds):
        for contestant in contestants if i % 2 else contestants[::-1]:
            contestant.sweep()
            start = time.perf_counter()
            work(contestant)
            times[contestant.name].append(time.perf_counter() - start)
    plain = times["plain"]
    for contestant in contestants:
        ratios = [p / t for p, t in zip(plain, times[contestant.name], strict=True)]
        print(
            f"{what:<28} {contestant.name:<8} {statistics.median(times[contestant.name]) * 1000:9.1f} ms a block"
            f"   {statistics.median(ratios):.2f}x plain  (quartiles {statistics.quantiles(ratios, n=4)[0]:.2f}"
            f" to {statistics.quantiles(ratios, n=4)[2]:.2f}, {rounds} pairs)"
        )


KINDS = {"plain": Contestant, "rowcast": Captured, "triggers": Triggers, "python": PythonOutbox}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    contestants: list[Contestant] = [kind(name, sa.create_engine(arguments.url)) for name, kind in KINDS.items()]
    for contestant in contestants:
        contestant.prepare()
    measure("OLTP mix, 50 transactions", lambda c: c.oltp(50), contestants, arguments.rounds)
    large = max(7, arguments.rounds // 4)
    measure("flush of 10,000 objects", lambda c: c.flush(10_000), contestants, large)
    measure("the same, keys drawn", lambda c: c.flush_without_keys(10_000), contestants, large)
    measure("update().where() of 10,000", lambda c: c.update_where(10_000), contestants[:3], large)


if __name__ == "__main__":
    main()
