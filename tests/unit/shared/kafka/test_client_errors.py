"""Errors of the Kafka client are classified in one place."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from rowcast.shared.kafka.client_errors import is_transient, reason_of


@pytest.mark.parametrize(
    ("code", "transient"),
    [
        (KafkaError._TIMED_OUT, True),
        (KafkaError._TRANSPORT, True),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, True),
        (KafkaError.NOT_LEADER_FOR_PARTITION, True),
        (KafkaError.UNKNOWN_LEADER_EPOCH, True),
        (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, True),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, False),
        (KafkaError._FENCED, False),
        (KafkaError.MSG_SIZE_TOO_LARGE, False),
    ],
)
def test_each_code_is_transient_or_not(code: int, transient: bool) -> None:
    assert is_transient(KafkaError(code)) is transient


def test_what_librdkafka_calls_retriable_is_transient() -> None:
    assert is_transient(KafkaError(KafkaError._STATE, "a reason", retriable=True))


def test_the_reason_is_the_message_alone() -> None:
    assert reason_of(KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN, "no broker"))) == "no broker"
    assert reason_of(TimeoutError("no answer")) == "no answer"
