"""Send one transaction of many rows from PostgreSQL to replicas on PostgreSQL and SQLite, and measure the memory.

    python -m benchmarks.bench_large_transaction URL REPLICA_URL BOOTSTRAP [--rows 10000000]

A relay and two workers run beside the application, as processes. The replicas are consistent before the transaction
begins. The memory is the peak of the resident memory of each process from its start to its end.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import sqlalchemy as sa

from benchmarks.harness import Application, Command, Order, Probe, application, heading
from rowcast.shared.database.engines import open_engine

_ROWS_OF_A_STATEMENT = 100_000
_PATIENCE_S = 7_200.0
_SUMS = f"SELECT count(*), sum(id), sum(customer_id), min(note), max(note) FROM {Order.__tablename__}"


class Replica:
    """A replica of the application, and the time at which it had all rows."""

    def __init__(self, app: Application, name: str, url: str) -> None:
        self.name = name
        self.engine = open_engine(url, "bench", pooled=False)
        self.applied_at = 0.0
        with app.config.open("a") as config:
            config.write(f'[replicas.{name}]\nurl = "{url}"\n')

    def has(self, table: type[Order | Probe], key: int) -> bool:
        with self.engine.connect() as connection:
            if not sa.inspect(connection).has_table(table.__tablename__):
                return False
            return connection.scalar(sa.select(table.id).where(table.id == key)) is not None

    def is_consistent(self) -> bool:
        with self.engine.connect() as connection:
            return bool(connection.scalar(sa.text("SELECT state FROM rowcast_replica")) == "consistent")


def insert_in_one_transaction(app: Application, rows: int) -> None:
    """Let the database make the rows, because the memory of the application is not measured."""
    with app.sessions.begin() as session:
        for start in range(0, rows, _ROWS_OF_A_STATEMENT):
            n = sa.func.generate_series(start + 1, min(start + _ROWS_OF_A_STATEMENT, rows)).column_valued("n")
            note = sa.func.concat("note ", sa.func.md5(sa.cast(n, sa.Text)))
            columns = (n, n, sa.literal("new"), n % 100_000 / 100, note, sa.func.now(), sa.func.now())
            session.execute(sa.insert(Order).from_select(list(Order.__table__.c.keys()), sa.select(*columns)))


def wait_for(condition: object, *processes: Command) -> None:
    assert callable(condition)
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        for process in processes:
            process.mib()  # Fails if the process has ended.
        if time.monotonic() > deadline:
            raise SystemExit(f"not done after {_PATIENCE_S:.0f} s")
        time.sleep(0.5)


def run(app: Application, replicas: list[Replica], rows: int) -> None:
    with Command(app.config, "relay") as relay:
        app.probe(0)
        app.wait_until_published()
        with Command(app.config, "worker", "postgresql") as one, Command(app.config, "worker", "sqlite") as other:
            workers = (one, other)
            for replica in replicas:
                wait_for(lambda replica=replica: replica.has(Probe, 0) and replica.is_consistent(), relay, *workers)
            before = [process.mib() for process in (relay, *workers)]
            start = time.monotonic()
            insert_in_one_transaction(app, rows)
            committed = time.monotonic()
            print(f"  committed after {committed - start:.0f} s", flush=True)
            wait_for(lambda: not app.backlog(), relay, *workers)
            print(f"  published {time.monotonic() - committed:.0f} s after the commit", flush=True)
            for replica in replicas:
                wait_for(lambda replica=replica: replica.has(Order, rows), relay, *workers)
                print(
                    f"  {replica.name} has all rows {time.monotonic() - committed:.0f} s after the commit", flush=True
                )
            for name, process, mib in zip(("relay", "postgresql", "sqlite"), (relay, *workers), before, strict=True):
                print(f"  {name:12} {mib:6.0f} MiB before, peak {process.peak_mib():6.0f} MiB", flush=True)
    with app.engine.connect() as connection:
        expected = tuple(connection.execute(sa.text(_SUMS)).one())
    for replica in replicas:
        with replica.engine.connect() as connection:
            found = tuple(connection.execute(sa.text(_SUMS)).one())
        assert found == expected, f"{replica.name} has {found}, and the primary {expected}"
    print("  the replicas equal the primary", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("replica_url")
    parser.add_argument("bootstrap")
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    heading(f"one transaction of {options.rows:,} rows")
    with application(options.url, options.bootstrap) as app:
        folder = Path(app.config).parent
        urls = {"postgresql": options.replica_url, "sqlite": f"sqlite:///{folder / 'replica.db'}"}
        run(app, [Replica(app, name, url) for name, url in urls.items()], options.rows)


if __name__ == "__main__":
    main()
