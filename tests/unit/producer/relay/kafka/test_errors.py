"""Each error of librdkafka becomes a rowcast error with the next step for the caller."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from rowcast.producer.relay.kafka.errors import error_in, to_rowcast_error
from rowcast.shared.errors import ConfigurationError, DataError, FencedError, RetriableError


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (KafkaError._FENCED, FencedError, "committing"),
        (KafkaError.INVALID_PRODUCER_EPOCH, FencedError, "committing"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, ConfigurationError, "Check the security settings"),
        (KafkaError.SASL_AUTHENTICATION_FAILED, ConfigurationError, "Kafka refuses the relay"),
        (KafkaError.INVALID_REPLICATION_FACTOR, ConfigurationError, "committing"),
        (KafkaError.MSG_SIZE_TOO_LARGE, DataError, "Raise max.message.bytes"),
        (KafkaError._TRANSPORT, RetriableError, "committing"),
        (KafkaError.NOT_LEADER_FOR_PARTITION, RetriableError, "committing"),
    ],
)
def test_an_error_says_what_the_caller_can_do(code: int, kind: type[Exception], text: str) -> None:
    error = to_rowcast_error(KafkaException(KafkaError(code)), "committing")
    assert type(error) is kind
    assert text in str(error)
    assert "committing" in str(error)


def test_the_error_of_librdkafka_is_inside_the_exception() -> None:
    error = KafkaError(KafkaError._TIMED_OUT, "too late")
    assert error_in(KafkaException(error)) is error
