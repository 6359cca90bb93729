"""What an error of librdkafka means to the relay."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from rowcast.shared.errors import ConfigurationError, DataError, FencedError, RetriableError, RowcastError

_FENCED = frozenset((KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH))
_REFUSED = frozenset(
    (
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    )
)
_WRONG = frozenset(
    (KafkaError.INVALID_TRANSACTION_TIMEOUT, KafkaError.TOPIC_EXCEPTION, KafkaError.INVALID_REPLICATION_FACTOR,
     KafkaError.INVALID_CONFIG, KafkaError.POLICY_VIOLATION, KafkaError._INVALID_ARG)
)  # fmt: skip


def error_in(exception: KafkaException) -> KafkaError:
    """librdkafka's own error."""
    error = exception.args[0]
    assert isinstance(error, KafkaError)
    return error


def meaning(exception: KafkaException, what: str) -> RowcastError:
    """The error to raise. ``what`` was being done: "committing the Kafka transaction"."""
    error = error_in(exception)
    code, text = error.code(), f"{what}: {error.str()}"
    if code in _FENCED:
        # Another relay took over, or the broker gave up this one's transaction after transaction.timeout.ms.
        return FencedError(text)
    if code in _REFUSED:
        return ConfigurationError(f"Kafka refuses the relay: {text}. Check the security settings in [kafka].")
    if code in _WRONG:
        return ConfigurationError(f"Kafka: {text}.")
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return DataError(f"Kafka: {text}. Raise max.message.bytes of the topic, and message.max.bytes in [kafka].")
    return RetriableError(f"Kafka: {text}")
