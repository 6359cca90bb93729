"""Measure how fast a relay empties a PostgreSQL outbox into Kafka, beside librdkafka alone, and the latency.

    python -m benchmarks.bench_relay URL BOOTSTRAP [--events N] [--rounds N] [--rate 100] [--seconds 20]

Throughput: the outbox is filled first, with transactions of 10 rows and then with bulk transactions of 10,000 rows. A
single transaction is captured, and SQL multiplies its outbox rows. Contestants alternate, each in a new process. The
relay is measured from the moment it leads until Kafka has committed everything and the outbox is empty. librdkafka
sends the messages that the relay has just published, from memory, without a database and without transactions. The
first round of each contestant does not count, because a new broker is slow until the JVM has compiled the busy code.

Latency, from a commit to Kafka's acknowledgement: the application and librdkafka alone take turns of two seconds,
--seconds for each. The application commits a row at a time. librdkafka sends messages at the same rate, and Kafka
acknowledges them without outbox, relay or transaction. The first quarter of a second of a turn does not count, because
a polling relay had nothing to do before and polled rarely.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import resource
import statistics
import threading
import time
import uuid
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from benchmarks.harness import Application, Command, Order, Probe, application, heading, observer, percentiles, values
from rowcast.producer import relay
from rowcast.producer.relay import RelayProgress, run_relay
from rowcast.shared.config.settings import load
from rowcast.shared.process_tuning import tune_interpreter
from support.kafka_admin import create_topics

SIZES = {"transactions of 10 rows": 10, "bulk transactions of 10,000": 10_000}
_MULTIPLY = sa.text(
    "INSERT INTO rowcast_outbox (tx, ts_ms, complete, changes) "
    "SELECT 'bench' || n, ts_ms, complete, changes FROM rowcast_outbox, generate_series(1, :n) AS n "
    "WHERE tx NOT LIKE 'bench%' ORDER BY n, id"
)

_TURN_S = 2.0
_SETTLING_S = 0.25
_RAW_VALUE = b"x" * 600
"""About the size of an event."""

Result = tuple[float, float]
"""Seconds, and the peak memory of the process in MiB."""


def fill(app: Application, events: int, size: int) -> None:
    with app.sessions.begin() as session:
        session.execute(sa.insert(Order), [values(key) for key in range(size)])
    with app.engine.begin() as connection:
        connection.execute(_MULTIPLY, {"n": events // size - 1})
    with app.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE rowcast_outbox"))


def relay_once(config: str, results: Connection) -> None:
    leading = ended = 0.0

    def note(progress: RelayProgress) -> None:
        nonlocal leading, ended
        if progress.state == "leading":
            ended = time.perf_counter()
            leading = leading or ended

    # The command ``rowcast relay`` tunes the interpreter, too.
    with tune_interpreter():
        run_relay(load(Path(config)), True, threading.Event(), note)
    results.send((ended - leading, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def produce(bootstrap: str, source: str, results: Connection) -> None:
    """Send the messages of the source's topics to new topics, and measure the time."""
    reader = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "enable.partition.eof": True,
         "isolation.level": "read_committed", "enable.auto.commit": False}
    )  # fmt: skip
    names = [name for name in reader.list_topics(timeout=10).topics if source in name]
    reader.assign([TopicPartition(name, 0, 0) for name in names])
    messages: list[tuple[str, bytes | None, bytes | None]] = []
    ends = 0
    while ends < len(names):
        message = reader.poll(30)
        assert message is not None
        if message.error() is not None:
            ends += 1
        else:
            messages.append((f"raw-{message.topic()}", message.value(), message.key()))
    reader.close()
    create_topics(bootstrap, *(NewTopic(f"raw-{name}", 1, 1) for name in names))
    producer = Producer(
        {"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 1,
         "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 65_536}
    )  # fmt: skip
    producer.list_topics(timeout=10)
    began = time.perf_counter()
    for n, (topic, value, key) in enumerate(messages):
        while True:
            try:
                producer.produce(topic, value, key, 0)
                break
            except BufferError:
                producer.poll(0.005)
        if n % 500 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0
    results.send((time.perf_counter() - began, 0.0))


def in_a_process(function: Callable[..., None], *arguments: str) -> Result:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=function, args=(*arguments, there))
    process.start()
    there.close()
    result: Result = here.recv()
    process.join()
    return result


def throughput(url: str, bootstrap: str, events: int, rounds: int) -> None:
    heading(f"relay, PostgreSQL outbox to Kafka, {events:,} events, {rounds} rounds")
    for what, size in SIZES.items():
        relayed, raw, most = [], [], 0.0
        for n in range(rounds + 1):
            with application(url, bootstrap, snapshot="never") as app:
                fill(app, events, size)
                seconds, mib = in_a_process(relay_once, str(app.config))
                assert app.backlog() == 0
                most = max(most, mib)
                if n > 0:
                    relayed.append(events / seconds)
                    raw.append(events / in_a_process(produce, bootstrap, app.source)[0])
        ratio = statistics.median(a / b for a, b in zip(relayed, raw, strict=True))
        print(
            f"  {what:<28} {statistics.median(relayed):9,.0f} events/s ({min(relayed):,.0f}–{max(relayed):,.0f})   "
            f"librdkafka alone {statistics.median(raw):9,.0f}   {ratio:.2f}x   peak {most:.0f} MiB",
            flush=True,
        )


def latency(url: str, bootstrap: str, rate: float, seconds: float, warm_up: float, transaction_ms: int) -> None:
    heading(
        f"commit to acknowledged in Kafka at {rate:.0f} commits/s for {seconds:.0f} s, "
        f"a Kafka transaction each {transaction_ms} ms"
    )
    relayed: dict[str, Any] = {"snapshot": "never", "kafka_transaction_ms": transaction_ms}
    for embedded in (True, False):
        with application(url, bootstrap, **relayed) as app, contextlib.ExitStack() as stack:
            if embedded:
                stack.enter_context(relay.running(app.settings, app.capture))
            else:
                stack.enter_context(Command(app.config, "relay"))
            app.probe(0)
            app.wait_until_published()
            reader = stack.enter_context(observer(bootstrap, app.topic(Probe)))
            raw = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True, "linger.ms": 0})
            # A new broker is slow until the JVM has compiled the busy code.
            first, count = round(rate * warm_up), round(rate * (warm_up + 2 * seconds))
            # The contestants take turns, so all further load on the machine meets both.
            turn, settling = max(1, round(rate * _TURN_S)), round(rate * _SETTLING_S)
            began = {}
            start = time.monotonic()
            for key in range(1, count + 1):
                time.sleep(max(0.0, start + key / rate - time.monotonic()))
                if key // turn % 2 == 0:
                    began[key] = app.probe(key)
                else:
                    began[key] = time.monotonic()
                    raw.produce(app.topic(Probe), _RAW_VALUE, orjson.dumps({"id": key}), 0)
                    raw.poll(0)
            reader.send(count)
            seen = reader.recv()
            delays: tuple[list[float], list[float]] = ([], [])
            for key in range(first + 1, count + 1):
                if key % turn >= settling:
                    delays[key // turn % 2].append(seen[key] - began[key])
            where = "in the application" if embedded else "in a process of its own"
            print(f"  relay {where:<24} {percentiles(delays[0])}")
            print(f"  {'librdkafka alone':<30} {percentiles(delays[1])}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bootstrap")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds at the same rate before")
    parser.add_argument("--transaction-ms", type=int, default=100, help="kafka_transaction_ms, for the latency")
    parser.add_argument("--only", choices=("throughput", "latency"))
    options = parser.parse_args()
    if options.only != "latency":
        throughput(options.url, options.bootstrap, options.events, options.rounds)
    if options.only != "throughput":
        latency(options.url, options.bootstrap, options.rate, options.seconds, options.warm_up, options.transaction_ms)


if __name__ == "__main__":
    main()
