"""Read errors of librdkafka: the message, and whether a retry may succeed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

# Errors without librdkafka's flag "retriable". Kafka returns them for a moment, for a new topic or during the election
# of a partition's leader.
_TRANSIENT = frozenset(
    ("NOT_LEADER_FOR_PARTITION", "LEADER_NOT_AVAILABLE", "UNKNOWN_TOPIC_OR_PART", "REPLICA_NOT_AVAILABLE")
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
