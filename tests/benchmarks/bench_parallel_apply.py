"""Measure whether whole transactions could be applied faster by two connections: the raw statements, without a worker.

    python -m benchmarks.bench_parallel_apply URL [--rows N] [--rounds N]

Rows from memory go into the table of bench_worker, 5,000 in each commit: on PostgreSQL by COPY into a stage and an
upsert, on MariaDB and MySQL by INSERT of 1,000 rows with ON DUPLICATE KEY UPDATE. First all rows are new, then all are
updated. One process with one connection and two processes with a connection each take turns. The two have disjoint keys
(even and odd), so they never wait for a row of each other. A worker would in addition have to find transactions with
disjoint keys, and to keep the order of their commits visible. Both can only make it slower than this limit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import sqlalchemy as sa

from benchmarks.bench_worker import COLUMNS, PER_COPY, row
from rowcast.shared.database.engines import open_engine

_PER_INSERT = 1_000
_CREATE = (
    "CREATE TABLE orders (id BIGINT PRIMARY KEY, customer_id BIGINT, status VARCHAR(20), amount DECIMAL(12, 2), "
    "note VARCHAR(60), created_at {time}, updated_at {time})"
)

Rows = Sequence[tuple[Any, ...]]


def write_postgresql(url: str, rows: Rows, barrier: Barrier) -> tuple[float, float]:
    """Return the times at which the writing began and ended."""
    import psycopg

    columns, changes = ", ".join(COLUMNS), ", ".join(f"{c} = excluded.{c}" for c in COLUMNS[1:])
    upsert = f"INSERT INTO orders SELECT {columns} FROM stage ON CONFLICT (id) DO UPDATE SET {changes}"
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        connection.execute("CREATE TEMP TABLE stage (LIKE orders) ON COMMIT DELETE ROWS")
        connection.commit()
        barrier.wait()
        began = time.monotonic()
        for start in range(0, len(rows), PER_COPY):
            with connection.cursor() as cursor:
                with cursor.copy(f"COPY stage ({columns}) FROM STDIN") as copy:
                    for values in rows[start : start + PER_COPY]:
                        copy.write_row(values)
                cursor.execute(upsert)
            connection.commit()
        return began, time.monotonic()


def write_mysql(url: str, rows: Rows, barrier: Barrier) -> tuple[float, float]:
    """Return the times at which the writing began and ended."""
    columns = ", ".join(COLUMNS)
    changes = ", ".join(f"{c} = VALUES({c})" for c in COLUMNS[1:])
    mark = f"({', '.join(['%s'] * len(COLUMNS))})"
    readable = [(*values[:5], *(text.replace("T", " ").rstrip("Z") for text in values[5:])) for values in rows]
    with open_engine(url, "replica", pooled=False).connect() as connection:
        barrier.wait()
        began = time.monotonic()
        for start in range(0, len(rows), PER_COPY):
            for place in range(start, min(start + PER_COPY, len(rows)), _PER_INSERT):
                part = readable[place : place + _PER_INSERT]
                marks = ", ".join([mark] * len(part))
                sql = f"INSERT INTO orders ({columns}) VALUES {marks} ON DUPLICATE KEY UPDATE {changes}"
                connection.exec_driver_sql(sql, tuple(value for values in part for value in values))
            connection.commit()
        return began, time.monotonic()


def _write(url: str, rows: Rows, barrier: Barrier, results: Any) -> None:
    is_postgresql = sa.make_url(url).get_backend_name() == "postgresql"
    results.put((write_postgresql if is_postgresql else write_mysql)(url, rows, barrier))


def rate(url: str, shares: Sequence[Rows]) -> float:
    """Return rows per second of a process for each share, all at the same time."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(len(shares)), context.Queue()
    writers = [context.Process(target=_write, args=(url, share, barrier, results)) for share in shares]
    for writer in writers:
        writer.start()
    times: list[tuple[float, float]] = [results.get(timeout=600) for _ in writers]
    for writer in writers:
        writer.join()
    return sum(map(len, shares)) / (max(end for _, end in times) - min(begin for begin, _ in times))


def create_table(url: str) -> None:
    engine = open_engine(url, "replica", pooled=False)
    type_ = "TIMESTAMPTZ" if engine.dialect.name == "postgresql" else "DATETIME(6)"
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS orders")
        connection.exec_driver_sql(_CREATE.format(time=type_))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    chance = random.Random(42)
    rows = [row(chance, id, id) for id in range(options.rows)]
    splits = {1: [rows], 2: [rows[::2], rows[1::2]]}
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for count, shares in splits.items():
            create_table(options.url)
            for phase in ("inserts", "updates"):
                found.setdefault((phase, count), []).append(rate(options.url, shares))
    print(f"{sa.make_url(options.url).get_backend_name()}, {options.rows:,} rows, {options.rounds} rounds: rows/s")
    for phase in ("inserts", "updates"):
        one, two = found[phase, 1], found[phase, 2]
        ratio = statistics.median(b / a for a, b in zip(one, two, strict=True))
        print(
            f"  {phase}: 1 connection {statistics.median(one):9,.0f}   2 connections {statistics.median(two):9,.0f}"
            f"   {ratio:.2f}x"
        )


if __name__ == "__main__":
    main()
