"""Read errors of librdkafka: the message, and whether a retry may succeed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

# Errors without librdkafka's flag "retriable". Kafka returns them for a moment: for a new topic, during the election of
# a partition's leader, or while a broker starts. Kafka's protocol guide calls the same codes retriable.
_TRANSIENT = frozenset(
    ("NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PART", "UNKNOWN_TOPIC_ID")
    + ("REPLICA_NOT_AVAILABLE", "BROKER_NOT_AVAILABLE", "PREFERRED_LEADER_NOT_AVAILABLE", "OFFSET_NOT_AVAILABLE")
    + ("UNKNOWN_LEADER_EPOCH", "FENCED_LEADER_EPOCH", "NOT_CONTROLLER", "STALE_BROKER_EPOCH", "LISTENER_NOT_FOUND")
    + ("COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR", "COORDINATOR_LOAD_IN_PROGRESS", "CONCURRENT_TRANSACTIONS")
    + ("REQUEST_TIMED_OUT", "NETWORK_EXCEPTION", "KAFKA_STORAGE_ERROR", "THROTTLING_QUOTA_EXCEEDED")
    + ("NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND")
    + ("_UNKNOWN_PARTITION", "_UNKNOWN_TOPIC", "_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_PARTIAL")
)

# A broker without SASL, or with other mechanisms, refuses the login as well.
_LOGIN = frozenset(("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "_SSL", "UNSUPPORTED_SASL_MECHANISM"))


def is_login_error(error: KafkaError) -> bool:
    """Return whether a broker refuses the client's user, password, certificate or mechanism."""
    return error.name() in _LOGIN


def is_transient(error: KafkaError) -> bool:
    """Return whether a retry of the call may succeed."""
    return error.retriable() or error.name() in _TRANSIENT


def reason_of(exception: BaseException) -> str:
    """Return the message of a KafkaException without its code, or the text of any other exception."""
    detail: Any = exception.args[0] if exception.args else exception
    return str(detail.str()) if hasattr(detail, "str") else str(detail)
