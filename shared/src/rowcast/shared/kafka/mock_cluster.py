"""Run the embedded Kafka: librdkafka's mock cluster inside this process, open to any client on this machine.

The embedded Kafka is for demonstrations and fast tests only. It keeps little data, in memory. It creates topics with 4
partitions when a client asks for them. It accepts transactions, but it does not fence a predecessor, does not hide
uncommitted messages, and forgets the offsets of a transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rowcast.shared.kafka.clients import new_producer

_log = logging.getLogger("rowcast.kafka")


@contextmanager
def embedded_kafka(extra: str = "relay") -> Iterator[str]:
    """Run the mock cluster until the block ends, and yield the ``bootstrap.servers``."""
    host = new_producer({}, extra, {"test.mock.num.brokers": 1, "log_level": 3})
    try:
        brokers = host.list_topics(timeout=10).brokers
        address = ",".join(f"{b.host}:{b.port}" for b in brokers.values())
        _log.warning("embedded Kafka at %s: in memory, for demonstrations and tests only", address)
        yield address
    finally:
        host.flush(1)
