"""Measure how a group of workers scales: `consistency = "row"` on partitions and workers 1, 2 and 4.

    python -m benchmarks.bench_row_workers URL BOOTSTRAP [--events N] [--rounds N] [--mix A|B]

The table and the mixes are those of bench_worker. The workers are processes that have joined and wait, suspended, while
the topics are filled. Then all wake up at once. The time runs until the replica has the positions of all ends, so it
includes the workers' reading, Kafka and the database. The rows are compared at the end.

A machine of 2 processors runs the workers, PostgreSQL and Kafka on the same 2, and one worker with its database session
keeps nearly both busy. 2 workers gain what one of them waits, and 4 workers cannot be 4 times as fast there. Therefore
the CPU time of an event stands beside the rate: that of all workers, and that of PostgreSQL's sessions. It says what a
larger machine, or several machines, would give: the rate grows with the workers as long as the CPU of an event does
not.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import sqlalchemy as sa
from confluent_kafka.admin import AdminClient

from benchmarks.bench_worker import Bench, fill
from benchmarks.harness import ended_sessions_s
from rowcast.consumer.reading.topic_metadata import new_asker, partition_ends
from rowcast.consumer.status.workers import group_id
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.kafka.topic_names import table_topic
from servers.guard import Guard
from support.kafka_source import Source
from support.worker_process import WorkerProcess
from support.worker_runs import NAME, settings_for, work_once

_TICKS = os.sysconf("SC_CLK_TCK")
# Nobody leaves the group while the topics are filled, and no server ends a session.
_PATIENT = {"session.timeout.ms": 600_000, "max.poll.interval.ms": 600_000}
_LEASE_MS = 600_000
_POLL_S = 0.01


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def suspended_workers(settings: Settings, count: int, partitions: int) -> Iterator[list[WorkerProcess]]:
    """Start workers and suspend them once each has its partitions."""
    guard = Guard()
    with tempfile.TemporaryDirectory() as folder:
        workers = [WorkerProcess(settings, Path(folder) / "workers.log", guard) for _ in range(count)]
        try:
            wait_for_group(settings, count, partitions)
            time.sleep(2)  # Let the workers read their positions.
            for worker in workers:
                worker.send(signal.SIGSTOP)
            yield workers
            for worker in workers:
                worker.terminate()
        except BaseException:
            print((Path(folder) / "workers.log").read_text()[-3_000:])
            raise
        finally:
            for worker in workers:
                if worker.runs:
                    worker.kill()
            guard.close()


def wait_for_group(settings: Settings, count: int, partitions: int) -> None:
    """Wait until all workers are members, and all partitions are given to them."""
    admin = AdminClient({"bootstrap.servers": settings.kafka["bootstrap.servers"]})
    group = group_id(settings.source, NAME)
    deadline = time.monotonic() + 120
    while True:
        members = admin.describe_consumer_groups([group])[group].result(10).members
        given = [len(member.assignment.topic_partitions) for member in members]
        if len(given) == count and sum(given) == partitions:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"the group has {given} partitions after 120 s")
        time.sleep(0.1)


def measure(bench: Bench, mix: str, workers: int) -> tuple[float, float, float]:
    """Return events per second, and the CPU microseconds of an event in the workers and in PostgreSQL's sessions."""
    bench.empty()
    source = Source(bench.bootstrap, f"bench-rows-{mix.lower()}-{time.time_ns():x}", bench.partitions)
    source.add(*bench.shapes)
    settings = settings_for(source.name, bench.bootstrap, bench.url, consistency="row", lease_ms=_LEASE_MS)
    settings = settings.model_copy(update={"kafka": settings.kafka | _PATIENT})
    work_once(settings)
    sessions_s = ended_sessions_s(bench.url) or 0.0
    with suspended_workers(settings, workers, bench.partitions * len(bench.shapes)) as processes:
        fill(source, mix, bench.events)
        time.sleep(1)  # Give the broker time to write the messages.
        ends = ends_of(settings, bench)
        before_s = sum(cpu_s(process.pid) for process in processes)
        began = time.perf_counter()
        for process in processes:
            process.send(signal.SIGCONT)
        wait_for_positions(bench.url, source.name, ends)
        took_s = time.perf_counter() - began
        spent_s = sum(cpu_s(process.pid) for process in processes) - before_s
    time.sleep(0.2)  # Give the server time to end the sessions.
    sessions_s = (ended_sessions_s(bench.url) or 0.0) - sessions_s
    bench.check(mix)
    return bench.events / took_s, spent_s / bench.events * 1e6, sessions_s / bench.events * 1e6


def ends_of(settings: Settings, bench: Bench) -> int:
    """Return the sum of the ends of all partitions."""
    topics = [table_topic(settings.source, one.schema, one.name) for one in bench.shapes]
    places = [(topic, number) for topic in topics for number in range(bench.partitions)]
    with new_asker(settings) as asker:
        return sum(end for _, end in partition_ends(asker, places).values())


def wait_for_positions(url: str, source: str, ends: int) -> None:
    query = sa.text("SELECT COALESCE(SUM(next_offset), 0) FROM rowcast_position WHERE source = :s")
    deadline = time.monotonic() + 600
    with (
        open_engine(url, "replica", pooled=False)
        .connect()
        .execution_options(isolation_level="AUTOCOMMIT") as connection
    ):
        while int(connection.scalar(query, {"s": source}) or 0) < ends:
            if time.monotonic() > deadline:
                raise SystemExit("the workers have not reached the ends after 600 s")
            time.sleep(_POLL_S)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bootstrap")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mix", choices=("A", "B"), default="B")
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args(arguments)
    cases = [(p, w) for p in options.partitions for w in options.workers if w <= p]
    found: dict[tuple[int, int], list[tuple[float, float, float]]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for partitions, workers in cases:
            bench = Bench(options.url, options.bootstrap, options.events, partitions=partitions)
            found[partitions, workers].append(measure(bench, options.mix, workers))
    print(f"mix {options.mix}, {options.events:,} events, {options.rounds} rounds, {os.cpu_count()} processors")
    print("partitions  workers   events/s (median, least-most)    CPU of an event: workers + PostgreSQL")
    for (partitions, workers), measured in found.items():
        rates, own, theirs = zip(*measured, strict=True)
        print(
            f"{partitions:10} {workers:8} {statistics.median(rates):10,.0f} {min(rates):10,.0f}-{max(rates):<10,.0f}"
            f" {statistics.median(own):12.1f} + {statistics.median(theirs):.1f} µs"
        )


if __name__ == "__main__":
    main()
