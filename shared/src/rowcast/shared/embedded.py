"""The embedded Kafka: librdkafka's mock cluster, inside this process, open to any client on this machine.

For a demonstration and for fast tests, and for nothing else: it keeps little data, in memory; topics come into being
by themselves with 4 partitions; it takes transactions but does not fence a predecessor, does not hide what is not
committed, and forgets offsets that were sent with a transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rowcast.shared.kafka import new_producer

_log = logging.getLogger("rowcast.kafka")

CLUSTER_ID_PREFIX = "mockCluster"


@contextmanager
def embedded_kafka(extra: str = "relay") -> Iterator[str]:
    """Runs the mock cluster for the length of the block and gives its ``bootstrap.servers``."""
    host = new_producer({}, extra, {"test.mock.num.brokers": 1, "log_level": 3})
    try:
        brokers = host.list_topics(timeout=10).brokers
        address = ",".join(f"{b.host}:{b.port}" for b in brokers.values())
        _log.warning("embedded Kafka at %s: in memory, for demonstrations and tests only", address)
        yield address
    finally:
        host.flush(1)
