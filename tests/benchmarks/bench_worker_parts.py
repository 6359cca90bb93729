"""Measure the parts of the worker's time: reading messages, and ways to write rows to PostgreSQL.

    python -m benchmarks.bench_worker_parts POSTGRESQL_URL [--events 100000]

The figures are CPU microseconds of an event, of this thread or of the server's session, because CPU time hardly depends
on other load. The messages are those of ``bench_worker`` and are in memory. The tables are temporary, without WAL.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from benchmarks.bench_worker import COLUMNS, ORDERS, operations
from benchmarks.harness import heading
from rowcast.consumer.events.change import read_change
from rowcast.consumer.events.change_block import read_block
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.shared.kafka.messages import (
    TransactionEvent,
    _parse_transaction_fully,
    parse_transaction,
    transaction_value,
)
from support.memory_topics import MemorySource, Message

_PLACE = ("orders", 0)
_BLOCK = 500
_BATCH = 5_000
_DDL = (
    "CREATE TEMP TABLE IF NOT EXISTS {} (id bigint, customer_id bigint, status text, amount numeric(12,2), note text, "
    "created_at timestamptz, updated_at timestamptz)"
)
_RECORD = (
    "id bigint, customer_id bigint, status text, amount numeric, note text, created_at timestamptz, "
    "updated_at timestamptz"
)
_NAMES = ", ".join(COLUMNS)
_UPDATE = "ON CONFLICT (id) DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[1:])
_FROM_JSON = f"INSERT INTO orders ({_NAMES}) SELECT * FROM json_to_recordset(%s::json) AS r({_RECORD}) {_UPDATE}"
_IMAGE = '{"id":%d,"customer_id":%d,"status":"%s","amount":"%s","note":"%s","created_at":"%s","updated_at":"%s"}'

Rows = Sequence[tuple[Any, ...]]


def report(name: str, work: Callable[[], object], clock: Callable[[], float], count: int) -> None:
    began = clock()
    work()
    print(f"  {name:44} {(clock() - began) / count * 1e6:6.2f} µs", flush=True)


def read(events: int) -> None:
    """Measure the reading of events, and of BEGIN and END."""
    layouts = RowLayouts()
    layouts.add(ORDERS.version, ORDERS)
    source, messages = MemorySource(), []
    for n, (op, values) in enumerate(operations("B", events), 1):
        row = _IMAGE % values if op != "d" else f'{{"id":{values[0]}}}'
        value = source.envelope(op, ORDERS, row, n, str(n // 10), n % 10, n % 10)
        messages.append(Message(*_PLACE, n, b'{"id":%d}' % values[0], value))
    blocks = [messages[start : start + _BLOCK] for start in range(0, events, _BLOCK)]
    assert all(read_block(block, _PLACE, layouts) is not None for block in blocks)
    clock = time.thread_time
    report("events in blocks", lambda: [len(read_block(b, _PLACE, layouts) or ()) for b in blocks], clock, events)
    one_by_one = lambda: [  # noqa: E731  # measured, and used once
        read_change(m.key(), m.value() or b"", _PLACE, m.offset(), layouts) is None for m in messages
    ]
    report("events one by one", one_by_one, clock, events)
    ends = [transaction_value(TransactionEvent("END", str(n), 5, n, 10, {"public.orders": 10})) for n in range(events)]
    report("END", lambda: [parse_transaction(end).lsn for end in ends], clock, events)
    report("END, full path", lambda: [_parse_transaction_fully(end).lsn for end in ends], clock, events)


class Session:
    """A session that writes batches, each in a transaction."""

    def __init__(self, url: str, rows: Rows) -> None:
        self._connection = psycopg.connect(sa.make_url(url).set(drivername="postgresql").render_as_string(False))
        self._rows = rows
        self._images = {row[0]: _IMAGE % row for row in rows}
        self._lines = {row[0]: "\t".join(map(str, row)) + "\n" for row in rows}
        self._connection.execute(_DDL.format("orders").replace("id bigint,", "id bigint PRIMARY KEY,", 1))
        self._connection.execute(_DDL.format("stage") + " ON COMMIT DELETE ROWS")
        self._connection.commit()

    def cpu_s(self) -> float:
        """Return the CPU seconds of the session's process, on this machine."""
        times = Path(f"/proc/{self._connection.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")

    def write(self, write: Callable[[Rows], None]) -> None:
        """Write all rows."""
        for start in range(0, len(self._rows), _BATCH):
            write(self._rows[start : start + _BATCH])
            self._connection.commit()

    def empty(self) -> None:
        """Delete all rows."""
        self._connection.execute("TRUNCATE orders")
        self._connection.commit()

    def from_json(self, rows: Rows) -> None:
        """Upsert from a JSON array."""
        self._connection.execute(_FROM_JSON, ("[" + ",".join(self._images[row[0]] for row in rows) + "]",))

    def copy(self, rows: Rows, table: str = "orders") -> None:
        """Copy into a table."""
        with self._connection.cursor().copy(f"COPY {table} ({_NAMES}) FROM STDIN") as copy:
            copy.write("".join(self._lines[row[0]] for row in rows))

    def stage(self, rows: Rows) -> None:
        """Copy into a temporary table, and upsert from there."""
        self.copy(rows, "stage")
        self._connection.execute(f"INSERT INTO orders SELECT * FROM stage {_UPDATE}")


def write(url: str, events: int) -> None:
    """Measure the server's time for ways to write rows."""
    session = Session(url, [values for _, values in operations("A", events)])
    for name, way in (
        ("COPY of new rows", session.copy),
        ("upsert from JSON", session.from_json),
        ("COPY to a temporary table, upsert from there", session.stage),
    ):
        session.empty()
        report(name, lambda way=way: session.write(way), session.cpu_s, events)  # type: ignore[misc]
        if way != session.copy:
            report("  the same rows again", lambda way=way: session.write(way), session.cpu_s, events)  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--events", type=int, default=100_000)
    options = parser.parse_args()
    heading(f"parts of the worker's time, {options.events:,} events, CPU of an event")
    read(options.events)
    write(options.url, options.events)


if __name__ == "__main__":
    main()
