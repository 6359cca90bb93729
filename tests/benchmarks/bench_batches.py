"""Compare ways to go through a large table and to copy it.

    python -m benchmarks.bench_batches URL REPLICA BOOTSTRAP [--rows N] [--merged N]

First ``batches`` and pages by LIMIT and OFFSET read all rows, 1,000 at a time, with a commit after each page. Then a
table is copied into another database: by a script that merges and commits row by row, and by a snapshot, a relay and a
worker. The script copies only ``--merged`` rows, because its rate does not depend on their number. At last one row of a
hundred changes. The script of every hour copies everything again, and rowcast brings the changes.
"""

from __future__ import annotations

import argparse
import time

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.harness import Application, Base, Command, Order, application, heading
from rowcast.consumer import replica_status
from rowcast.producer import batches
from rowcast.producer.cli.snapshot_client import SnapshotClient

_PAGE = 1_000
_ONE_OF = 100


def by_batches(session: Session) -> int:
    """Return the number of rows that ``batches`` yields."""
    return sum(len(orders) for orders in batches(session, sa.select(Order), _PAGE, name="bench"))


def by_offset(session: Session) -> int:
    """Return the number of rows of all pages by OFFSET."""
    count = 0
    while orders := session.scalars(sa.select(Order).order_by(Order.id).limit(_PAGE).offset(count)).all():
        count += len(orders)
        session.commit()
    return count


def by_script(source: Session, target: Session, rows: int) -> None:
    """Copy rows as many scripts do."""
    for order in source.scalars(sa.select(Order).order_by(Order.id).limit(rows)):
        source.expunge(order)
        target.merge(order)
        target.commit()


def by_rowcast(app: Application, rows: int) -> tuple[float, float]:
    """Return the seconds of a first copy and of a refresh.

    The copy is from the request of a snapshot until the replica is consistent and has all rows. The refresh is from the
    first change until the replica has the last.
    """
    with Command(app.config, "relay"):
        # The outbox names a table only after a change in a table.
        app.probe(0)
        app.wait_until_published()
        began = time.monotonic()
        requests = SnapshotClient(app.settings)
        requests.request([Order.__tablename__], None, 5_000)
        requests.close()
        with Command(app.config, "worker", "bench"):
            wait_until_applied(app, records=rows)
            copied = time.monotonic()
            with app.sessions() as session:
                for start in range(0, rows, _PAGE * _ONE_OF):
                    keys = range(start, min(start + _PAGE * _ONE_OF, rows), _ONE_OF)
                    session.execute(sa.update(Order).where(Order.id.in_(keys)).values(status="changed"))
                    session.commit()
            app.wait_until_published()
            wait_until_applied(app, records=rows + rows // _ONE_OF)
            return copied - began, time.monotonic() - copied


def wait_until_applied(app: Application, records: int) -> None:
    """Wait until the replica is consistent, and has as many records as this at least."""
    while True:
        status = replica_status(app.settings, "bench")
        # A snapshot that has not begun has no records yet.
        if status.state == "consistent" and not status.records and status.next_offsets > records:
            return
        time.sleep(0.1)


def paging(app: Application, rows: int) -> None:
    figures = {}
    for name, read in (("batches", by_batches), ("offset", by_offset)):
        with app.sessions() as session:
            began = time.monotonic()
            assert read(session) == rows
            figures[name] = time.monotonic() - began
    ratio = figures["offset"] / figures["batches"]
    print(
        f"  {rows:,} rows in pages of {_PAGE:,}: batches {figures['batches']:.1f} s, "
        f"LIMIT/OFFSET {figures['offset']:.1f} s: {ratio:.1f}x"
    )


def copying(app: Application, replica: str, rows: int, merged: int) -> None:
    target = sa.create_engine(replica)
    Base.metadata.drop_all(target)
    Base.metadata.create_all(target)
    with Session(app.engine) as source, sessionmaker(target)() as session:
        began = time.monotonic()
        by_script(source, session, merged)
        script = merged / (time.monotonic() - began)
    Base.metadata.drop_all(target)
    with target.begin() as connection:
        for name in ("rowcast_replica", "rowcast_position", "rowcast_table"):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {name}"))
    target.dispose()
    with app.config.open("a") as config:
        config.write(f'[replicas.bench]\nurl = "{replica}"\n')
    copy_s, refresh_s = by_rowcast(app, rows)
    own, again_s = rows / copy_s, rows / script
    print(f"  copy: {script:,.0f} rows/s by merge and commit, {own:,.0f} rows/s by rowcast: {own / script:.0f}x")
    print(
        f"  refresh after 1 of {_ONE_OF} rows has changed: {again_s:,.0f} s by the script at this rate, "
        f"{refresh_s:.1f} s by rowcast: {again_s / refresh_s:,.0f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("replica")
    parser.add_argument("bootstrap")
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--merged", type=int, default=5_000)
    options = parser.parse_args()
    heading(f"batches and copies of {options.rows:,} rows")
    with application(options.url, options.bootstrap, options.rows, snapshot="never") as app:
        paging(app, options.rows)
        copying(app, options.replica, options.rows, options.merged)


if __name__ == "__main__":
    main()
