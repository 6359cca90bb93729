"""The defaults of all Kafka clients."""

from __future__ import annotations

import pytest

from rowcast.shared.kafka.clients import Properties, new_producer


@pytest.mark.parametrize(
    "properties",
    [{}, {"transaction.timeout.ms": 5_000}, {"transaction.timeout.ms": "5000"}, {"socket.timeout.ms": 3_000}],
)
def test_the_defaults_of_timeouts_fit_the_users_properties(properties: Properties) -> None:
    """librdkafka refuses a socket timeout above the time of a transaction."""
    new_producer({"bootstrap.servers": "127.0.0.1:1", **properties}, "relay", {"transactional.id": "t"})
