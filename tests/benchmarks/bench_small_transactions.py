"""Compare ways to write small transactions to PostgreSQL: statement by statement, and in three round trips.

    python -m benchmarks.bench_small_transactions POSTGRESQL_URL [--transactions 200] [--blocks 20] [--network-ms 1]

A transaction updates one row. The blocks of both ways alternate in one process. The second pair of figures is through a
proxy that holds every answer of the server for ``--network-ms``, as a network does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from unittest.mock import patch

import sqlalchemy as sa

from benchmarks.harness import heading
from rowcast.consumer.replica.dialects import postgresql
from support.direct_replica import DirectReplica
from support.kafka_source import column, shape

_ITEM = shape("item", column("n", "int32"), column("note", "text"))
_ROWS = 100


@contextlib.contextmanager
def slow_network(url: str, delay_s: float) -> Iterator[str]:
    """Return the URL of a proxy to the server of ``url``."""
    target = sa.make_url(url)
    loop = asyncio.new_event_loop()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(target.host, target.port)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(_copy(reader, back, 0.0), _copy(there, writer, delay_s), return_exceptions=True)

    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield target.set(port=server.sockets[0].getsockname()[1]).render_as_string(hide_password=False)
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    while data := await reader.read(65_536):
        if delay_s:
            await asyncio.sleep(delay_s)
        writer.write(data)
    writer.close()


def measure(url: str, transactions: int, blocks: int) -> tuple[float, float]:
    """Return the medians of the milliseconds of a transaction: statement by statement, and in three round trips."""
    replica = DirectReplica(url)
    replica.begin(_ITEM)
    times: dict[bool, list[float]] = {False: [], True: []}
    for block in range(2 * blocks + 2):
        together = bool(block % 2)
        one_by_one = patch.multiple(postgresql, begin_with=lambda *_, **__: None, commit_with=lambda *_, **__: False)
        with contextlib.nullcontext() if together else one_by_one:
            changes = [
                replica.change("u", "item", {"id": n % _ROWS, "n": block, "note": "x"}) for n in range(transactions)
            ]
            began = time.perf_counter()
            for change in changes:
                replica.apply_changes(change)
            # The first block of each way does not count.
            if block > 1:
                times[together].append((time.perf_counter() - began) / transactions * 1000)
    replica.replica.close()
    return statistics.median(times[False]), statistics.median(times[True])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--transactions", type=int, default=200)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--network-ms", type=float, default=1.0)
    options = parser.parse_args()
    heading("small transactions, milliseconds of one")
    engine = sa.create_engine(options.url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS item, rowcast_position, rowcast_replica"))
    engine.dispose()
    for name, delay_s in (("on this machine", 0.0), (f"{options.network_ms:g} ms away", options.network_ms / 1000)):
        with slow_network(options.url, delay_s) if delay_s else contextlib.nullcontext(options.url) as url:
            before, after = measure(url, options.transactions if not delay_s else 50, options.blocks)
        print(
            f"  {name:18} one by one {before:6.2f}, three round trips {after:6.2f}: {before / after:.2f}×", flush=True
        )


if __name__ == "__main__":
    main()
