"""Find out the largest size of a message, before anything of the transaction is claimed.

Kafka refuses a message that is too large only after a part of the transaction was sent, and workers have read the part
already, because workers read uncommitted messages. Therefore the relay checks all messages before the first is sent:
against the limit of the client and the limit of each topic.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource

from rowcast.producer.relay.kafka.errors import error_in
from rowcast.producer.relay.messages.envelopes import Message
from rowcast.shared import row_values
from rowcast.shared.kafka.clients import Properties, new_admin

_log = logging.getLogger("rowcast.relay")

OVERHEAD_BYTES = 128
"""Upper limit of three things together: what the client adds to a message, what the broker counts for a batch, and how
much longer the final lsns can be than the lsns of the check."""

_MAX_ENVELOPE_BYTES = 16 * 1024
"""Upper limit of what an event holds beside its outbox line: the envelope with the context of the transaction."""

_TIMEOUT_S = 10.0

SIZE_HINT = "raise max.message.bytes of the topic, and message.max.bytes in [kafka]"


class SizeLimits:
    """Hold the size limits of the client and of the topics of one cluster, as far as known.

    With ``compression.type`` only the limit of the client is checked. A broker counts compressed bytes, and their
    number is unknown before the messages are compressed.
    """

    def __init__(self, properties: Properties) -> None:
        self._properties = properties
        self._client_limit = int(properties.get("message.max.bytes", 1_000_000))
        codec = properties.get("compression.type", properties.get("compression.codec", "none"))
        self._checks_topics = codec == "none"
        self._topic_limits: dict[str, int] = {}
        self._lowest = self._client_limit

    def fetch(self, topics: Iterable[str], admin: AdminClient | None = None) -> None:
        """Fetch the limits of the topics from Kafka. A topic whose limit Kafka does not return counts as unlimited."""
        if not self._checks_topics:
            return
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in topics]
        if not resources:
            return
        admin = admin or new_admin(self._properties, "relay")
        for resource, future in admin.describe_configs(resources, request_timeout=_TIMEOUT_S).items():
            try:
                self._topic_limits[resource.name] = int(future.result()["max.message.bytes"].value)
            except KafkaException as error:
                _log.debug("max.message.bytes of the topic %s is unknown: %s", resource.name, error_in(error).str())
        self._lowest = min(self._client_limit, *self._topic_limits.values()) if self._topic_limits else self._lowest

    def may_exceed(self, size: int) -> bool:
        """Return whether the event of an outbox line or a row image of ``size`` bytes may exceed a limit."""
        return size + _MAX_ENVELOPE_BYTES > self._lowest

    def excess(self, message: Message) -> str | None:
        """Return why Kafka will refuse the message because of its size, or None if Kafka will accept the message."""
        topic, value, key = message[0], message[1] or b"", message[2]
        headers = message[7] if len(message) > 4 else ()
        header_bytes = sum(len(name) + len(text) + 6 for name, text in headers)
        size = len(value) + len(key) + header_bytes + OVERHEAD_BYTES
        if size > self._client_limit:
            return _format_excess(message, f"the client takes {self._client_limit:,}: message.max.bytes in [kafka]")
        if size > self._topic_limits.get(topic, math.inf):
            # An administrator may have raised the limit since it was fetched.
            self.fetch([topic])
        limit = self._topic_limits.get(topic, math.inf)
        if size > limit:
            return _format_excess(message, f"the topic takes {limit:,}: its max.message.bytes")
        return None


def _format_excess(message: Message, limit: str) -> str:
    topic, value, key = message[:3]
    size = len(value or b"") + len(key)
    return f"a message of {size:,} bytes for the topic {topic}{row_values.key_suffix(key)} is too large ({limit})"
