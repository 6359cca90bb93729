"""Kafka clients, made from the configuration's librdkafka properties."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rowcast.shared.errors import ConfigurationError, MissingExtraError, UnreachableError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer
    from confluent_kafka.admin import AdminClient

_log = logging.getLogger("rowcast.kafka")

Properties = Mapping[str, str | int | float | bool]


def new_producer(properties: Properties, extra: str, own: Mapping[str, Any] | None = None) -> Producer:
    """A producer; ``own`` properties come on top of the user's.

    Raises MissingExtraError, or ConfigurationError for a property that librdkafka does not take.
    """
    require_client(extra)
    from confluent_kafka import KafkaException, Producer

    try:
        return Producer(_merged(properties, own))
    except KafkaException as error:
        raise _bad_property(error) from error


def new_consumer(properties: Properties, extra: str, own: Mapping[str, Any] | None = None) -> Consumer:
    """A consumer; as new_producer."""
    require_client(extra)
    from confluent_kafka import Consumer, KafkaException

    try:
        return Consumer(_merged(properties, own))
    except KafkaException as error:
        raise _bad_property(error) from error


def new_admin(properties: Properties, extra: str) -> AdminClient:
    """An admin client; as new_producer."""
    require_client(extra)
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        return AdminClient(_merged(properties, None))
    except KafkaException as error:
        raise _bad_property(error) from error


def reach(properties: Properties, extra: str, timeout: float = 10.0) -> Any:
    """The cluster's metadata. Raises UnreachableError if no broker answers within ``timeout`` seconds."""
    admin = new_admin(properties, extra)
    # After new_admin, which tells how to install the client if it is missing.
    from confluent_kafka import KafkaException

    try:
        return admin.list_topics(timeout=timeout)
    except KafkaException as error:
        raise unreachable(properties, error) from error


def unreachable(properties: Properties, error: Exception) -> UnreachableError:
    """The error to raise when no broker answers."""
    reason = error.args[0].str() if error.args and hasattr(error.args[0], "str") else str(error)
    return UnreachableError(
        f"cannot reach Kafka at {properties.get('bootstrap.servers')}: {reason}. "
        'Is it running, and is "bootstrap.servers" in [kafka] right?'
    )


def is_embedded(metadata: Any) -> bool:
    """Whether the cluster that ``reach`` found is librdkafka's in-process mock: it has no fencing, no isolation, no
    CreateTopics."""
    from rowcast.shared.embedded import CLUSTER_ID_PREFIX

    return str(metadata.cluster_id or "").startswith(CLUSTER_ID_PREFIX)


def require_client(extra: str) -> None:
    """Raises MissingExtraError if the Kafka client is not installed."""
    try:
        import confluent_kafka  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("the Kafka client (confluent-kafka)", extra) from error


def _merged(properties: Properties, own: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"logger": _log, "client.id": "rowcast", **properties, **(own or {})}


def _bad_property(error: Exception) -> ConfigurationError:
    reason = error.args[0].str() if error.args and hasattr(error.args[0], "str") else str(error)
    return ConfigurationError(f"[kafka]: {reason}. The keys are librdkafka's CONFIGURATION.md's.")
