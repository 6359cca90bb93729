"""Translate errors of librdkafka into errors of rowcast."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from rowcast.shared.errors import ConfigurationError, DataError, FencedError, RetriableError, RowcastError

_FENCED = frozenset((KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH))
_UNAUTHORIZED = frozenset(
    (
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    )
)
_INVALID_SETTING = frozenset(
    (KafkaError.INVALID_TRANSACTION_TIMEOUT, KafkaError.TOPIC_EXCEPTION, KafkaError.INVALID_REPLICATION_FACTOR,
     KafkaError.INVALID_CONFIG, KafkaError.POLICY_VIOLATION, KafkaError._INVALID_ARG)
)  # fmt: skip


def error_in(exception: KafkaException) -> KafkaError:
    """Return the error of librdkafka that the exception carries."""
    error = exception.args[0]
    assert isinstance(error, KafkaError)
    return error


def to_rowcast_error(exception: KafkaException, action: str) -> RowcastError:
    """Return the error of rowcast to raise instead. ``action``: the failed step, for example "producing"."""
    error = error_in(exception)
    code, text = error.code(), f"{action}: {error.str()}"
    if code in _FENCED:
        # Another relay took over, or the broker ended the Kafka transaction after transaction.timeout.ms.
        return FencedError(text)
    if code in _UNAUTHORIZED:
        return ConfigurationError(f"Kafka refuses the relay: {text}. Check the security settings in [kafka].")
    if code in _INVALID_SETTING:
        return ConfigurationError(f"Kafka: {text}.")
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return DataError(f"Kafka: {text}. Raise max.message.bytes of the topic, and message.max.bytes in [kafka].")
    return RetriableError(f"Kafka: {text}")
