"""Run all benchmarks on the servers in the environment (`make bench`), or the named benchmarks (`BENCH=capture`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

HERE = Path(__file__).parent


def second_database(url: str, name: str) -> str:
    """Create an empty PostgreSQL database on the server of ``url``, and return its URL."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name}"))
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)


def main() -> int:
    primary, bootstrap = os.environ["POSTGRESQL_URL"], os.environ["KAFKA_BOOTSTRAP_SERVERS"]
    replica = second_database(primary, "bench_replica")
    runs = {
        "capture": [[primary]],
        "bytecodes": [[primary]],
        "worker_bytecodes": [[replica, bootstrap]],
        "latency": [[primary, replica, bootstrap], [primary, replica, bootstrap, "--embedded-relay"]],
        "worker": [[replica, bootstrap]],
        "worker_start": [[replica, bootstrap]],
        "row_workers": [[replica, bootstrap]],
        "parallel_apply": [[replica]],
        "worker_parts": [[replica]],
        "small_transactions": [[replica]],
        "rebuild": [
            [replica, bootstrap],
            [replica, bootstrap, "--tables", "4"],
            [replica, bootstrap, "--tables", "4", "--indexes", "--primary", second_database(primary, "bench_rebuilt")],
        ],
        "relay": [[primary, bootstrap]],
        "snapshot": [[primary, bootstrap]],
        "batches": [[primary, replica, bootstrap]],
        "outbox": [[primary, bootstrap]],
        "reads": [[primary, replica, bootstrap]],
        "verify": [[second_database(primary, "bench_verify"), second_database(primary, "bench_verify_copy")]],
    }
    chosen = sys.argv[1:] or list(runs)
    failed = 0
    for name in chosen:
        for arguments in runs[name]:
            command = [sys.executable, "-m", f"benchmarks.bench_{name}", *arguments]
            failed |= subprocess.run(command, check=False, cwd=HERE.parent).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main())
