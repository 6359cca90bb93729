"""Make Kafka clients from the librdkafka properties of the configuration."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rowcast.shared.errors import ConfigurationError, LoginError, MissingExtraError, UnreachableError
from rowcast.shared.kafka.client_errors import is_login_error, reason_of

_REACH_SLICE_S = 2.0
CLUSTER_ID_PREFIX = "mockCluster"


if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer
    from confluent_kafka.admin import AdminClient

_log = logging.getLogger("rowcast.kafka")

Properties = Mapping[str, str | int | float | bool]


def new_producer(properties: Properties, extra: str, own: Mapping[str, Any] | None = None) -> Producer:
    """Return a producer. ``own``: properties above the user's. ``extra``: the extra of rowcast to install.

    Raises MissingExtraError, or ConfigurationError for a property unknown to librdkafka.
    """
    require_client(extra)
    from confluent_kafka import KafkaException, Producer

    try:
        return Producer(_merged(properties, own))
    except KafkaException as error:
        raise _bad_property(error) from error


def new_consumer(properties: Properties, extra: str, own: Mapping[str, Any] | None = None) -> Consumer:
    """Return a consumer. Parameters and errors are those of ``new_producer``."""
    require_client(extra)
    from confluent_kafka import Consumer, KafkaException

    class NamedConsumer(Consumer):
        """Know the brokers, because errors of the client do not name them."""

        brokers = brokers_in(properties)

    try:
        return NamedConsumer(_merged(properties, own))
    except KafkaException as error:
        raise _bad_property(error) from error


def new_admin(properties: Properties, extra: str, own: Mapping[str, Any] | None = None) -> AdminClient:
    """Return an admin client. Parameters and errors are those of ``new_producer``."""
    require_client(extra)
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        admin = AdminClient(_merged(properties, own))
    except KafkaException as error:
        raise _bad_property(error) from error
    admin.brokers = brokers_in(properties)  # type: ignore[attr-defined]  # errors of the client do not name them
    return admin


def reach(properties: Properties, extra: str, timeout: float = 10.0) -> Any:
    """Return the cluster's metadata.

    Raises LoginError if a broker refuses the login, and UnreachableError if no broker answers within ``timeout``
    seconds.
    """
    errors: list[Any] = []
    admin = new_admin(properties, extra, {"error_cb": errors.append})
    # After new_admin, because new_admin raises MissingExtraError if the client is not installed.
    from confluent_kafka import KafkaException

    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        try:
            return admin.list_topics(timeout=max(0.1, min(_REACH_SLICE_S, left)))
        except KafkaException as error:
            # The exception says that the time has passed. Only the callback is given the broker's refusal.
            admin.poll(0)
            if refusals := [one for one in errors if is_login_error(one)]:
                raise _refused_login(properties, refusals[0]) from error
            if left <= _REACH_SLICE_S:
                raise unreachable(properties, error) from error


def brokers_in(properties: Properties) -> str:
    """Return the brokers of the configuration, for messages."""
    return str(properties.get("bootstrap.servers", "an unknown address"))


def unreachable_by(client: Any, error: Exception) -> UnreachableError:
    """Return the error to raise when no broker answers ``client``, which is from ``new_consumer`` or ``new_admin``."""
    return unreachable({"bootstrap.servers": client.brokers}, error)


def _refused_login(properties: Properties, error: Any) -> LoginError:
    return LoginError(
        f"Kafka at {brokers_in(properties)} refuses the login: {error.str()}. "
        "Correct the security settings, the user or the password in [kafka]."
    )


def unreachable(properties: Properties, error: Exception) -> UnreachableError:
    """Return the error to raise when no broker answers."""
    return UnreachableError(
        f"cannot reach Kafka at {brokers_in(properties)}: {reason_of(error)}. "
        'Is it running, and is "bootstrap.servers" in [kafka] right?'
    )


def is_embedded(metadata: Any) -> bool:
    """Return whether the cluster is librdkafka's mock, which has no fencing, no isolation and no CreateTopics.

    ``metadata``: what ``reach`` returns.
    """
    return str(metadata.cluster_id or "").startswith(CLUSTER_ID_PREFIX)


def require_client(extra: str) -> None:
    """Raise MissingExtraError if the Kafka client is not installed."""
    try:
        import confluent_kafka  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("the Kafka client (confluent-kafka)", extra) from error


_DEFAULTS: dict[str, Any] = {
    "client.id": "rowcast",
    # A connection that the network has lost is noticed by the kernel while it is idle, and by the client when a request
    # is not answered. librdkafka waits for 60 s, and for 30 s for a connection.
    "socket.keepalive.enable": True,
    "socket.timeout.ms": 20_000,
    "socket.connection.setup.timeout.ms": 10_000,
}


def _merged(properties: Properties, own: Mapping[str, Any] | None) -> dict[str, Any]:
    merged = {"logger": _log, **_DEFAULTS, **properties, **(own or {})}
    if "transaction.timeout.ms" in properties and "socket.timeout.ms" not in properties:
        # librdkafka demands this of producers, and sees a default of rowcast as a wish of the user.
        try:
            longest = int(properties["transaction.timeout.ms"]) - 100
        except ValueError as error:
            raise ConfigurationError("[kafka]: transaction.timeout.ms is not a number of milliseconds.") from error
        merged["socket.timeout.ms"] = max(10, min(longest, _DEFAULTS["socket.timeout.ms"]))
    return merged


def _bad_property(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"[kafka]: {reason_of(error)}. The keys are the properties in librdkafka's CONFIGURATION.md."
    )
