"""Measure what it costs to read from a replica that is fresh enough, beside plain reads on the primary.

    python -m benchmarks.bench_reads URL REPLICA BOOTSTRAP [--reads N]

First one session writes, takes the token, and waits until the replica has the commit. Then reads of one row by key,
each in a transaction of its own, alternate in blocks: plain sessions, and routing sessions without a bound, with a
bound on the age, and with a token.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import count

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.harness import Application, Command, Order, Probe, application, heading, percentiles, worker_config
from rowcast.consumer import ReadReplica, RoutingSession

_BLOCK = 200
_COMMITS = 300
_ROWS = 10_000


def own_writes(app: Application, replica: ReadReplica) -> str:
    """Print the times of a token and of the wait for it. Return the last token."""
    token, tokens, waits = "", [], []
    for n in range(_COMMITS):
        with app.sessions() as session:
            session.add(Probe(id=1_000 + n))
            session.commit()
            committed = time.perf_counter()
            token = app.capture.token(session)
            tokens.append(time.perf_counter() - committed)
        if not replica.wait_for(token, 30.0):
            raise SystemExit("the replica does not follow")
        waits.append(time.perf_counter() - committed)
        time.sleep(0.01)
    print(f"  a token                  {percentiles(tokens)}")
    print(f"  from COMMIT to has(token) {percentiles(waits)}")
    return token


def read_rates(kinds: dict[str, Callable[[], Session]], reads: int) -> None:
    """Print the reads a second of each kind of session, and the ratio to the first kind."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    keys = count()
    for _ in range(reads // _BLOCK):
        for name, new_session in kinds.items():
            began = time.perf_counter()
            for _ in range(_BLOCK):
                with new_session() as session:
                    session.scalars(sa.select(Order).where(Order.id == next(keys) % _ROWS)).one()
            times[name].append(time.perf_counter() - began)
    first = next(iter(times.values()))
    for name, measured in times.items():
        ratio = statistics.median(a / b for a, b in zip(first, measured, strict=True))
        print(f"  {name:36} {_BLOCK / statistics.median(measured):8,.0f} reads/s  {ratio:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("replica")
    parser.add_argument("bootstrap")
    parser.add_argument("--reads", type=int, default=4_000)
    options = parser.parse_args()
    with application(options.url, options.bootstrap, _ROWS) as app, tempfile.TemporaryDirectory() as folder:
        config = worker_config(folder, app.source, options.bootstrap, "bench", options.replica)
        copy = sa.create_engine(options.replica)
        replica = ReadReplica(copy, primary=app.engine, source=app.source)
        with Command(app.config, "relay"), Command(config, "worker", "bench"):
            app.probe(0)
            with app.sessions() as session:
                if not replica.wait_for(app.capture.token(session), 120.0):
                    raise SystemExit("the replica is not consistent after two minutes")
            heading("reads from a replica")
            token = own_writes(app, replica)
            routed = sessionmaker(app.engine, class_=RoutingSession, replicas=[replica])
            read_rates(
                {
                    "plain session, primary": sessionmaker(app.engine),
                    "plain session, replica": sessionmaker(copy),
                    "RoutingSession": routed,
                    "RoutingSession, max_age=1": lambda: routed(max_age=1.0),
                    "RoutingSession, token": lambda: routed(token=token),
                },
                options.reads,
            )
        copy.dispose()


if __name__ == "__main__":
    main()
