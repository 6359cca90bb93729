"""Measure how fast `rowcast rebuild` makes a replica again, beside the worker that loads the same topics.

    python -m benchmarks.bench_rebuild URL BOOTSTRAP [--events N] [--rounds N] [--tables N] [--partitions N]
                                       [--processes N] [--indexes] [--primary URL]

The topics and the tables are those of `bench_worker`. In each round a worker loads an empty replica, and a rebuild then
replaces the replica's tables. Both times run from the call to the end, with the start, the constraints and, for the
rebuild, the swap and the drop of the old tables. ``--indexes``: each table has two indexes of the user's, which the
rebuild creates again. ``--primary``: an empty PostgreSQL database, which gets the rows too. The rebuild then compares
all rows with it.

The CPU time of an event hardly depends on what else the machine does: that of this process and of the processes that
the rebuild starts, and that of PostgreSQL's sessions.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import sqlalchemy as sa

from benchmarks.bench_worker import ORDERS, OTHERS, Bench, operations
from benchmarks.harness import ended_sessions_s
from rowcast.consumer.rebuild.options import RebuildOptions
from rowcast.consumer.rebuild.rebuild import rebuild
from rowcast.shared.tables.shape import TableShape
from support.worker_runs import NAME, Database, Primary, settings_for, work_once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bootstrap")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mix", choices=("A", "B"), default="A")
    parser.add_argument("--tables", type=int, default=1)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--indexes", action="store_true")
    parser.add_argument("--primary", default="")
    options = parser.parse_args()
    shapes: list[TableShape] = [ORDERS, *OTHERS[: options.tables - 1]]
    if options.primary:
        shapes = _filled_primary(options.primary, [one.name for one in shapes], options.mix, options.events)
    bench = Bench(options.url, options.bootstrap, options.events, shapes, options.partitions)
    rates: dict[str, list[float]] = {"worker": [], "rebuild": []}
    cpu: dict[str, list[str]] = {"worker": [], "rebuild": []}
    for _ in range(options.rounds):
        source = bench.prepare(options.mix, consistent=False)
        settings = settings_for(source.name, options.bootstrap, options.url, options.primary)
        how = RebuildOptions(is_verified=bool(options.primary), processes=options.processes)
        bench.empty()
        time.sleep(1)  # Give the broker time to write the messages.

        def load() -> None:
            work_once(settings)  # noqa: B023  # called in this round

        def replace() -> None:
            rebuild(settings, NAME, how, stop=threading.Event())  # noqa: B023  # called in this round

        _measure("worker", load, bench, rates, cpu)
        if options.indexes:
            _create_indexes(options.url, shapes)
        _measure("rebuild", replace, bench, rates, cpu)
        bench.check(options.mix)
    what = f"{options.tables} tables, {options.partitions} partitions"
    print(f"mix {options.mix}, {options.events:,} events, {what}, {options.rounds} rounds: events/s")
    for name, measured in rates.items():
        print(f"  {name:8} median {statistics.median(measured):10,.0f}   {min(measured):,.0f}–{max(measured):,.0f}")
        print(f"  {name:8} CPU of an event, Python + PostgreSQL: {', '.join(cpu[name])} µs")
    ratios = [a / b for a, b in zip(rates["rebuild"], rates["worker"], strict=True)]
    print(f"  rebuild / worker: {statistics.median(ratios):.2f}")


def _measure(
    name: str, work: Callable[[], None], bench: Bench, rates: dict[str, list[float]], cpu: dict[str, list[str]]
) -> None:
    sessions_s, python_s, began = ended_sessions_s(bench.url), _python_s(), time.perf_counter()
    work()
    rates[name].append(bench.events / (time.perf_counter() - began))
    spent = [(_python_s() - python_s) / bench.events * 1e6]
    time.sleep(0.2)  # Give the server time to end the sessions.
    if sessions_s is not None and (after_s := ended_sessions_s(bench.url)) is not None:
        spent.append((after_s - sessions_s) / bench.events * 1e6)
    cpu[name].append(" + ".join(f"{us:.1f}" for us in spent))


def _python_s() -> float:
    """Return the CPU seconds of this process and of its processes that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _filled_primary(url: str, names: Sequence[str], mix: str, events: int) -> list[TableShape]:
    """Create the tables in a primary with the rows that the operations leave. Return the shapes."""
    import psycopg

    metadata = sa.MetaData()
    for name in names:
        sa.Table(
            name,
            metadata,
            sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("customer_id", sa.BigInteger),
            sa.Column("status", sa.Text),
            sa.Column("amount", sa.Numeric(12, 2)),
            sa.Column("note", sa.Text),
            sa.Column("created_at", sa.DateTime(timezone=True)),
            sa.Column("updated_at", sa.DateTime(timezone=True)),
        )
    shapes = Primary(url, metadata).shapes
    rows: dict[int, tuple[Any, ...]] = {}
    for op, values in operations(mix, events):
        if op == "d":
            del rows[values[0]]
        else:
            rows[values[0]] = values
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        for place, name in enumerate(names):
            with connection.cursor().copy(f"COPY {name} FROM STDIN") as copy:
                for id, row in rows.items():
                    if id % len(names) == place:
                        copy.write_row(row)
    return [shapes[name] for name in names]


def _create_indexes(url: str, shapes: Sequence[TableShape]) -> None:
    """Create the indexes of a user on each table."""
    for table in shapes:
        Database(url).execute(
            f"CREATE INDEX {table.name}_customer ON {table.name} (customer_id)",
            f"CREATE INDEX {table.name}_created ON {table.name} (created_at)",
        )


if __name__ == "__main__":
    main()
