"""How large a message may be: found out before anything of its transaction is claimed.

What Kafka refuses has been sent in part by then, and readers of uncommitted messages, the workers, have seen that part.
So the relay looks first: at the client's own limit, and at each topic's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # it does, without saying so

from rowcast.producer.relay.envelopes import Message
from rowcast.producer.relay.kafka_errors import error_in
from rowcast.shared.kafka import Properties, new_admin

_log = logging.getLogger("rowcast.relay")

ROOM = 128
"""What the client adds to a message, what a broker counts of a batch, and by how much lsns may be longer than they were
when it was looked at: at most this."""

_ENVELOPE = 16 * 1024
"""What an event has beside its outbox line, its context included: less than this."""

_TIMEOUT_S = 10.0


class SizeLimits:
    """Of the topics of one cluster, as far as they are known.

    A broker counts what was compressed, and how much that is nobody knows before: with ``compression.type`` only the
    client's limit, which counts what was not, is known beforehand.
    """

    def __init__(self, properties: Properties) -> None:
        self._properties = properties
        self._client = int(properties.get("message.max.bytes", 1_000_000))
        codec = properties.get("compression.type", properties.get("compression.codec", "none"))
        self._asks = codec == "none"
        self._of_topics: dict[str, int] = {}
        self._lowest = self._client

    def learn(self, topics: Iterable[str], admin: AdminClient | None = None) -> None:
        """Asks Kafka for the topics' limits. What it does not tell, or not this client, is taken for unlimited."""
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in topics] if self._asks else []
        if not resources:
            return
        admin = admin or new_admin(self._properties, "relay")
        for resource, future in admin.describe_configs(resources, request_timeout=_TIMEOUT_S).items():
            try:
                self._of_topics[resource.name] = int(future.result()["max.message.bytes"].value)
            except KafkaException as error:
                _log.debug("max.message.bytes of the topic %s is not known: %s", resource.name, error_in(error).str())
        self._lowest = min(self._client, *self._of_topics.values()) if self._of_topics else self._client

    def concern(self, size: int) -> bool:
        """Whether an outbox row, or an image, of so many bytes needs a closer look."""
        return size + _ENVELOPE > self._lowest

    def excess(self, message: Message) -> str | None:
        """Why Kafka will not take the message; None if it will."""
        topic, value, key = message[0], message[1] or b"", message[2]
        headers = message[7] if len(message) > 4 else ()
        size = len(value) + len(key) + sum(len(name) + len(text) + 6 for name, text in headers) + ROOM
        if size > self._client:
            return _told(message, f"the client takes {self._client:,}: message.max.bytes in [kafka]")
        if size > self._of_topics.get(topic, math.inf):
            # It may have been raised since.
            self.learn([topic])
        limit = self._of_topics.get(topic, math.inf)
        return _told(message, f"the topic takes {limit:,}: its max.message.bytes") if size > limit else None


MEND = "raise max.message.bytes of the topic, and message.max.bytes in [kafka]"


def _told(message: Message, limit: str) -> str:
    topic, value, key = message[:3]
    size = len(value or b"") + len(key)
    return f"a message of {size:,} bytes for the topic {topic}, key {key.decode()[:200]}, is too large ({limit})"
