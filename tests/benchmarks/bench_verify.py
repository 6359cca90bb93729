"""Measure how fast ``rowcast verify`` compares equal databases, and how much memory it takes.

    python -m benchmarks.bench_verify PRIMARY_URL REPLICA_URL [--rows N] [--rounds N]

Two tables hold the same rows: ``items`` with a key of one integer, and ``metrics`` with a key of a text and two
integers. Both databases are filled by SQL, so Kafka is not needed. The figures are rows of the primary in a second of
real time, seconds of CPU in this process, and the greatest memory of this process.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import sqlalchemy as sa

from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.table_definitions import TableDefinitions
from rowcast.consumer.verification.comparison import verify
from support.worker_runs import NAME, Primary, settings_for

METADATA = sa.MetaData()
_VALUES = (("name", sa.String(40)), ("n", sa.BigInteger), ("amount", sa.Numeric(12, 2)), ("at", sa.DateTime))
ITEMS = sa.Table(
    "items",
    METADATA,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    *(sa.Column(name, type_) for name, type_ in _VALUES),
)
METRICS = sa.Table(
    "metrics",
    METADATA,
    sa.Column("run", sa.String(32), primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("part", sa.BigInteger, primary_key=True, autoincrement=False),
    *(sa.Column(name, type_) for name, type_ in _VALUES),
)
_AT = {
    "postgresql": "timestamp '2026-01-01' + i * interval '1 second'",
    "mysql": "timestamp('2026-01-01') + interval i second",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%S', '2026-01-01', i || ' seconds') || '.000000'",
}
_NAME = {"postgresql": "'name ' || i", "mysql": "concat('name ', i)", "sqlite": "'name ' || i"}
_RUN = {"postgresql": "'run' || (i % 20)", "mysql": "concat('run', i % 20)", "sqlite": "'run' || (i % 20)"}
_NUMBERS = {
    "postgresql": "generate_series(1, {rows}) AS numbers(i)",
    "mysql": "(SELECT seq AS i FROM seq_1_to_{rows}) AS numbers",
    "sqlite": "(WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {rows}) SELECT i FROM c)",
}


def fill(engine: sa.Engine, rows: int) -> None:
    """Insert the same rows on every engine."""
    family = "mysql" if engine.dialect.name in ("mysql", "mariadb") else engine.dialect.name
    values = f"{_NAME[family]}, i, round(i / 100.0, 2), {_AT[family]} FROM {_NUMBERS[family].format(rows=rows)}"
    with engine.begin() as connection:
        connection.execute(sa.text(f"INSERT INTO items SELECT i, {values}"))
        key = f"{_RUN[family]}, i, i % 7"
        connection.execute(sa.text(f"INSERT INTO metrics SELECT {key}, {values}"))
        if family == "postgresql":
            connection.execute(sa.text("ANALYZE items, metrics"))


def create_replica(url: str, primary: Primary) -> sa.Engine:
    """Create the tables as a worker does."""
    engine = sa.create_engine(url)
    with engine.connect():
        pass  # Now SQLAlchemy knows whether the server is MariaDB or MySQL.
    dialect = replica_dialect(engine.dialect.name)
    definitions = TableDefinitions(primary.shapes.values(), dialect, engine.dialect)
    for table in definitions.tables.values():
        table.create(engine)
    return engine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("primary")
    parser.add_argument("replica")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    primary = Primary(options.primary, METADATA)
    replica = create_replica(options.replica, primary)
    for engine in (primary.engine, replica):
        fill(engine, options.rows)
    settings = settings_for("bench", "127.0.0.1:9", options.replica, options.primary)
    pair = f"{primary.engine.dialect.name} -> {replica.dialect.name}"
    for _ in range(options.rounds):
        for table in ("items", "metrics"):
            began, cpu = time.monotonic(), time.process_time()
            result = verify(settings, NAME, tables=[f"*.{table}"])
            s, cpu = time.monotonic() - began, time.process_time() - cpu
            assert result.equal, result
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(
                f"{pair}, {table}: {result.rows / s:,.0f} rows/s, {s:.1f} s, "
                f"{cpu:.1f} s of CPU here, at most {memory} MB",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
