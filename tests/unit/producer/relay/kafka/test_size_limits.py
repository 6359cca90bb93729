"""A message above Kafka's size limit is found before the relay sends the message."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from rowcast.producer.relay.kafka import size_limits
from rowcast.producer.relay.kafka.size_limits import OVERHEAD_BYTES, SizeLimits

TOPIC = "shop.public.orders"


class FakeAdmin:
    """Return the size limit of each topic. A limit of None is a request that Kafka refuses."""

    def __init__(self, **limits: int | None) -> None:
        self.limits = {name.replace("_", "."): limit for name, limit in limits.items()}
        self.asked: list[str] = []

    def describe_configs(self, resources: list[Any], request_timeout: float) -> dict[Any, Future[Any]]:
        found: dict[Any, Future[Any]] = {}
        for resource in resources:
            self.asked.append(resource.name)
            answer = found[resource] = Future()
            limit = self.limits[resource.name]
            if limit is None:
                answer.set_exception(KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)))
            else:
                answer.set_result({"max.message.bytes": SimpleNamespace(value=str(limit))})
        return found


def fetch(limits: SizeLimits, admin: Any) -> None:
    limits.fetch([TOPIC], admin)


def message(size: int) -> Any:
    return TOPIC, b"v" * (size - 2), b"{}", -1


def test_a_message_is_checked_against_the_limit_of_its_topic() -> None:
    limits = SizeLimits({})
    fetch(limits, FakeAdmin(shop_public_orders=5_000))
    assert limits.excess(message(5_000 - OVERHEAD_BYTES)) is None


def test_a_limit_is_fetched_again_before_a_message_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, admin = SizeLimits({}), FakeAdmin(shop_public_orders=5_000)
    fetch(limits, admin)
    monkeypatch.setattr(size_limits, "new_admin", lambda properties, extra: admin)
    assert "the topic takes 5,000" in (limits.excess(message(6_000)) or "")
    admin.limits[TOPIC] = 7_000
    assert limits.excess(message(6_000)) is None
    assert admin.asked == [TOPIC] * 3


def test_a_message_is_checked_against_the_limit_of_the_client() -> None:
    limits = SizeLimits({"message.max.bytes": 2_000})
    assert limits.excess(message(2_000 - OVERHEAD_BYTES)) is None
    excess = limits.excess(message(2_001))
    assert excess is not None
    assert "a message of 2,001 bytes for the topic shop.public.orders is too large" in excess
    assert "the client takes 2,000" in excess


def test_headers_count() -> None:
    limits = SizeLimits({"message.max.bytes": 2_000})
    bare = message(2_000 - OVERHEAD_BYTES)
    assert limits.excess((*bare, None, None, 0, [("traceparent", b"00")])) is not None


def test_a_topic_whose_limit_kafka_does_not_return_counts_as_unlimited() -> None:
    limits = SizeLimits({})
    fetch(limits, FakeAdmin(shop_public_orders=None))
    assert limits.excess(message(900_000)) is None


def test_with_compression_only_the_limit_of_the_client_is_checked() -> None:
    limits, admin = SizeLimits({"compression.type": "zstd"}), FakeAdmin(shop_public_orders=5_000)
    fetch(limits, admin)
    assert admin.asked == []
    assert limits.excess(message(900_000)) is None


def test_only_large_rows_need_to_be_turned_into_messages() -> None:
    limits = SizeLimits({})
    assert not limits.may_exceed(100_000)
    assert limits.may_exceed(999_999)
    fetch(limits, FakeAdmin(shop_public_orders=50_000))
    assert limits.may_exceed(100_000)
