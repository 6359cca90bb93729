"""Measure how fast the worker takes events from Kafka to a replica, beside the limit of the database.

    python -m benchmarks.bench_worker URL BOOTSTRAP [--events N] [--rounds N]

The topics are filled first, with transactions of 10 events on a table of 7 columns. Mix A: inserts. Mix B: a third
inserts, then 70 % updates, 10 % deletes and 20 % inserts of random keys. Contestants alternate, each with a new source
and an empty table, so a drift of the machine's speed meets all contestants:

* ``transactions``: the replica is consistent, and the worker assembles every transaction up to its END.
* ``loading``: a new replica reads the same topics by key.
* ``COPY + upsert`` (PostgreSQL only): the rows come from memory, 5,000 in each commit, without Kafka and without JSON.

The time runs from the start of the active worker to the last commit, and includes driver, Kafka and positions. The CPU
time of an event hardly depends on what else the machine does: that of this process, and that of PostgreSQL's session.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import sqlalchemy as sa

from benchmarks.harness import ended_sessions_s
from rowcast.consumer.running.run_worker import run_worker
from rowcast.consumer.worker.progress import WorkerProgress
from rowcast.shared.database.engines import open_engine
from rowcast.shared.kafka.messages import TransactionEvent, transaction_value
from rowcast.shared.kafka.topic_names import table_topic, transaction_topic
from rowcast.shared.tables.shape import PortableType, TableShape
from support.kafka_source import Source, column, shape
from support.worker_runs import NAME, settings_for, work_once

ORDERS, *OTHERS = (
    shape(
        name,
        column("customer_id"),
        column("status", "text"),
        column("amount", PortableType("decimal", precision=12, scale=2)),
        column("note", "text"),
        column("created_at", "timestamptz"),
        column("updated_at", "timestamptz"),
    )
    for name in ("orders", *(f"orders{n}" for n in range(2, 10)))
)
COLUMNS = tuple(c.name for c in ORDERS.columns)
PER_TRANSACTION = 10
PER_COPY = 5_000
START = datetime(2025, 1, 1, tzinfo=UTC)
STATUS = ("new", "paid", "packed", "shipped", "done")

Operation = tuple[str, tuple[Any, ...]]

IMAGE = '{"id":%d,"customer_id":%d,"status":"%s","amount":"%s","note":"%s","created_at":"%s","updated_at":"%s"}'


def row(chance: random.Random, id: int, n: int) -> tuple[Any, ...]:
    at = (START + timedelta(seconds=n)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    amount = f"{chance.randrange(100, 1_000_000) / 100:.2f}"
    return (
        id,
        chance.randrange(1, 50_000),
        chance.choice(STATUS),
        amount,
        f"note {chance.getrandbits(128):032x}",
        at,
        at,
    )


def operations(mix: str, events: int) -> Iterator[Operation]:
    chance = random.Random(42)
    first = events if mix == "A" else events // 3
    live = list(range(1, first + 1))
    for n, id in enumerate(live):
        yield "c", row(chance, id, n)
    following = first + 1
    for n in range(first, events):
        dice = chance.random()
        if dice < 0.7:
            yield "u", row(chance, chance.choice(live), n)
        elif dice < 0.8:
            at = chance.randrange(len(live))
            live[at], live[-1] = live[-1], live[at]
            yield "d", (live.pop(),)
        else:
            live.append(following)
            yield "c", row(chance, following, n)
            following += 1


def fill(source: Source, mix: str, events: int) -> None:
    """Write the topics of the source's tables like a relay, quickly. The key chooses the table."""
    tables = [(table_topic(source.name, one.schema, one.name), template(source, one)) for one in source.shapes.values()]
    marks = transaction_topic(source.name)
    block: list[Operation] = []
    for operation in operations(mix, events):
        block.append(operation)
        if len(block) < PER_TRANSACTION:
            continue
        source.transactions += 1
        source.lsn += 1
        identity, ts_ms = str(source.transactions), int(time.time() * 1000)
        begin = TransactionEvent("BEGIN", identity, ts_ms, source.lsn)
        source.send(marks, transaction_value(begin), b'{"id":"%s"}' % identity.encode(), 0)
        counts = dict.fromkeys(source.shapes, 0)
        names = list(counts)
        for order, (op, values) in enumerate(block, 1):
            source.lsn += 1
            place = values[0] % len(tables)
            topic, text = tables[place]
            counts[names[place]] += 1
            after = "null" if op == "d" else IMAGE % values
            key = b'{"id":%d}' % values[0]
            value = text % (after, identity, source.lsn, op, identity, order, counts[names[place]])
            source.send(topic, value.encode(), key)
            if op == "d":
                source.send(topic, None, key)
        source.lsn += 1
        end = TransactionEvent("END", identity, ts_ms, source.lsn, len(block), {t: n for t, n in counts.items() if n})
        source.send(marks, transaction_value(end), b'{"id":"%s"}' % identity.encode(), 0)
        block.clear()
    source.flush()


def template(source: Source, table: TableShape) -> str:
    """Return a message of the tests' source, with placeholders for the parts that differ between events."""
    sample = source.envelope("u", table, '{"IMAGE":0}', 987654321, "TX", 123456789, 123456789).decode()
    return (
        sample.replace("%", "%%").replace('{"IMAGE":0}', "%s").replace("987654321", "%d").replace('"TX"', '"%s"')
        .replace("123456789", "%d").replace('"op":"u"', '"op":"%s"')
    )  # fmt: skip


@dataclass
class Bench:
    url: str
    bootstrap: str
    events: int
    shapes: Sequence[TableShape] = (ORDERS,)
    partitions: int = 1
    worker_us: list[float] = field(default_factory=list)
    """The CPU microseconds of each event in the worker's process, for each run."""
    session_us: list[float] = field(default_factory=list)
    """The CPU microseconds of each event in the session of a PostgreSQL replica, for each run."""

    def prepare(self, mix: str, *, consistent: bool) -> Source:
        source = Source(self.bootstrap, f"bench-{mix.lower()}-{uuid.uuid4().hex[:8]}", self.partitions)
        source.add(*self.shapes)
        if consistent:
            self.empty()
            work_once(settings_for(source.name, self.bootstrap, self.url))
        fill(source, mix, self.events)
        return source

    def empty(self) -> None:
        engine = open_engine(self.url, "replica", pooled=False)
        metadata = sa.MetaData()
        metadata.reflect(engine, only=lambda name, _: name in {one.name for one in (ORDERS, *OTHERS)})
        metadata.drop_all(engine)

    def make_table(self) -> None:
        """Create the table by a run of the worker."""
        source = Source(self.bootstrap, f"bench-{uuid.uuid4().hex[:8]}")
        source.add(ORDERS)
        work_once(settings_for(source.name, self.bootstrap, self.url))

    def work(self, source: Source) -> float:
        """Return events per second."""
        active = done = 0.0

        def note(progress: WorkerProgress) -> None:
            nonlocal active, done
            if progress.active and not active:
                active = time.perf_counter()
            if progress.events == self.events and not done:
                done = time.perf_counter()

        before_s, began = ended_sessions_s(self.url), time.process_time()
        run_worker(settings_for(source.name, self.bootstrap, self.url), NAME, once=True, on_progress=note)
        self.worker_us.append((time.process_time() - began) / self.events * 1e6)
        time.sleep(0.2)  # Give the server time to end the session.
        after_s = ended_sessions_s(self.url)
        if before_s is not None and after_s is not None:
            self.session_us.append((after_s - before_s) / self.events * 1e6)
        return self.events / (done - active)

    def check(self, mix: str) -> None:
        """Compare the table with the rows left by the operations."""
        expected: dict[int, str] = {}
        for op, values in operations(mix, self.events):
            if op == "d":
                del expected[values[0]]
            else:
                expected[values[0]] = values[4]
        with open_engine(self.url, "replica", pooled=False).connect() as connection:
            there = {
                row.id: row.note
                for table in self.shapes
                for row in connection.execute(sa.text(f"SELECT id, note FROM {table.name}"))
            }
        assert there == expected, f"{len(there)} rows, not {len(expected)}"

    def copy(self, mix: str) -> float:
        """Return rows per second of the fastest way that the driver offers. Deletes are left out."""
        import psycopg

        rows = [values for op, values in operations(mix, self.events) if op != "d"]
        columns = ", ".join(COLUMNS)
        changes = ", ".join(f"{c} = excluded.{c}" for c in COLUMNS[1:])
        # A key may come twice in a batch.
        upsert = (
            f"INSERT INTO orders SELECT DISTINCT ON (id) {columns} FROM stage ORDER BY id, n DESC "
            f"ON CONFLICT (id) DO UPDATE SET {changes}"
        )
        url = sa.make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TEMP TABLE stage (LIKE orders, n bigserial) ON COMMIT DELETE ROWS")
            connection.commit()
            began = time.perf_counter()
            for start in range(0, len(rows), PER_COPY):
                with connection.cursor() as cursor:
                    with cursor.copy(f"COPY stage ({columns}) FROM STDIN") as copy:
                        for values in rows[start : start + PER_COPY]:
                            copy.write_row(values)
                    cursor.execute(upsert)
                connection.commit()
            return len(rows) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bootstrap")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mix", choices=("A", "B"), action="append")
    options = parser.parse_args()
    bench = Bench(options.url, options.bootstrap, options.events)
    copies = sa.make_url(options.url).get_backend_name() == "postgresql"
    for mix in options.mix or ("A", "B"):
        rates: dict[str, list[float]] = {}
        cpu: dict[str, list[str]] = {}
        for _ in range(options.rounds):
            for consistent, name in ((True, "transactions"), (False, "loading")):
                source = bench.prepare(mix, consistent=consistent)
                if not consistent:
                    bench.empty()
                time.sleep(1)  # Give the broker time to write the messages.
                rates.setdefault(name, []).append(bench.work(source))
                spent = [f"{series[-1]:.1f}" for series in (bench.worker_us, bench.session_us) if series]
                cpu.setdefault(name, []).append(" + ".join(spent))
                bench.check(mix)
            if copies:
                bench.empty()
                bench.make_table()
                rates.setdefault("COPY + upsert", []).append(bench.copy(mix))
        print(f"mix {mix}, {options.events:,} events, {options.rounds} rounds: events/s")
        for name, measured in rates.items():
            print(
                f"  {name:14} median {statistics.median(measured):10,.0f}   {min(measured):,.0f}–{max(measured):,.0f}"
            )
        for name, spent_of_runs in cpu.items():
            print(f"  {name:14} CPU of an event, worker + PostgreSQL: {', '.join(spent_of_runs)} µs")
        if copies:
            ratios = [a / b for a, b in zip(rates["transactions"], rates["COPY + upsert"], strict=True)]
            print(f"  transactions / COPY + upsert: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
