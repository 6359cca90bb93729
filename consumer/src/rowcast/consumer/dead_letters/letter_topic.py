"""Write the original messages of refused events to a replica's dead letter topic, with Kafka Connect's headers."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rowcast.consumer.dead_letters.original_messages import original_messages
from rowcast.consumer.events.dead_letter import LetterEvent, SetAside
from rowcast.consumer.status.workers import group_id
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, RetriableError, UnreachableError
from rowcast.shared.kafka.clients import is_embedded, new_admin, new_producer, reach
from rowcast.shared.kafka.topic_names import heartbeat_topic, marker_topic, schema_topic, transaction_topic

_log = logging.getLogger("rowcast.worker")

_WRITTEN_TOGETHER = 1_000
_TIMEOUT_S = 30.0
# The default limit of a broker for one request (socket.request.max.bytes). A letter is larger than the event.
_MAX_MESSAGE_BYTES = 100 * 1024 * 1024
_POLL_S = 0.1

# Letters wait for people. Therefore Kafka must not remove letters. Each refusal of an event adds a letter. Therefore
# the topic must not be compacted.
_TOPIC_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(_MAX_MESSAGE_BYTES),
}

_PREFIX = "__connect.errors."


class LetterTopic:
    """Write to the dead letter topic of one replica. The topic is created with the first letter."""

    def __init__(self, settings: Settings, replica: str) -> None:
        """Raise ConfigurationError if the topic is a topic of the source."""
        self._settings = settings
        self._name = settings.dead_letter_topic(replica)
        self._replica = replica
        self._producer: Any = None
        self.require_own({name(settings.source) for name in _TOPICS_OF_A_SOURCE})

    def require_own(self, others: Collection[str]) -> None:
        """Raise ConfigurationError if the dead letter topic is among these topics."""
        if self._name in others:
            raise ConfigurationError(
                f"{self._name} is a topic of source {self._settings.source} itself. Name another dead letter topic: "
                f"dlq_topic in [replicas.{self._replica}]."
            )

    def write(self, events: Sequence[SetAside]) -> list[LetterEvent]:
        """Write the events, and return when Kafka has acknowledged all. Raise RetriableError for a transient fault."""
        with self._translated_errors():
            self._open()
            written = []
            for start in range(0, len(events), _WRITTEN_TOGETHER):
                written += self._write(events[start : start + _WRITTEN_TOGETHER])
            return written

    def close(self) -> None:
        """Close the client."""
        self._producer = None

    def _open(self) -> None:
        if self._producer is None:
            self._create()
            own = {"acks": "all", "enable.idempotence": True, "message.max.bytes": _MAX_MESSAGE_BYTES}
            self._producer = new_producer(self._settings.require_kafka(), "worker", own)

    def _create(self) -> None:
        """Create the topic if missing. The embedded Kafka creates topics by itself."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import NewTopic

        metadata = reach(self._settings.require_kafka(), "worker")
        if is_embedded(metadata):
            return
        if self._name in metadata.topics:
            self._require_kept()
            return
        copies = self._settings.topics.replication_factor
        new = NewTopic(self._name, num_partitions=1, replication_factor=copies, config=_TOPIC_CONFIG)
        admin = new_admin(self._settings.require_kafka(), "worker")
        try:
            admin.create_topics([new], request_timeout=_TIMEOUT_S)[self._name].result()
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise

    def _require_kept(self) -> None:
        """Raise ConfigurationError if an existing topic is compacted. Warn if Kafka removes its messages after a time.

        All events of a row have one key, so compaction would keep only the last letter of the row.
        """
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import ConfigResource

        resource = ConfigResource(ConfigResource.Type.TOPIC, self._name)
        admin = new_admin(self._settings.require_kafka(), "worker")
        try:
            config = admin.describe_configs([resource], request_timeout=_TIMEOUT_S)[resource].result()
        except KafkaException as error:
            _log.warning("the settings of topic %s are not known (%s)", self._name, error.args[0].str())
            return
        if "compact" in config["cleanup.policy"].value:
            raise ConfigurationError(
                f"dead letter topic {self._name} is compacted, so Kafka would remove letters. Set its cleanup.policy "
                f"to delete, or name another topic: dlq_topic in [replicas.{self._replica}]."
            )
        if (retention := config["retention.ms"].value) != "-1":
            _log.warning(
                "Kafka removes the messages of dead letter topic %s after %s ms, and such letters cannot be retried. "
                "Set its retention.ms to -1", self._name, retention,
            )  # fmt: skip

    def _write(self, events: Sequence[SetAside]) -> list[LetterEvent]:
        originals = original_messages(self._settings, [(event.partition, event.offset) for event in events])
        written: dict[SetAside, LetterEvent] = {}
        refused: list[Any] = []
        at_ms = time.time_ns() // 1_000_000
        for event in events:
            message = originals[event.partition, event.offset]

            def note(error: Any, stored: Any, event: SetAside = event) -> None:
                if error is not None:
                    refused.append(error)
                else:
                    written[event] = LetterEvent(event, (stored.topic(), stored.partition()), stored.offset(), at_ms)

            self._produce(message, self._headers(message, event), note)
        self._producer.flush(_TIMEOUT_S)
        if len(written) < len(events):
            self._raise(refused[0] if refused else None)
        return [written[event] for event in events]

    def _produce(self, message: Any, headers: list[tuple[str, bytes | None]], note: Any) -> None:
        while True:
            try:
                self._producer.produce(
                    self._name, message.value(), message.key(), 0, on_delivery=note,
                    timestamp=int(message.timestamp()[1]), headers=headers,
                )  # fmt: skip
            except BufferError:
                self._producer.poll(_POLL_S)
            else:
                return

    def _headers(self, message: Any, event: SetAside) -> list[tuple[str, bytes | None]]:
        """Return the message's own headers, and Kafka Connect's headers of dead letters."""
        topic, partition = event.partition
        connect = {
            "topic": topic,
            "partition": partition,
            "offset": event.offset,
            "connector.name": group_id(self._settings.source, self._replica),
            "task.id": 0,
            "stage": event.stage,
            "class.name": "rowcast.consumer.worker",
            "exception.class.name": event.exception,
            "exception.message": event.reason,
        }
        return [*(message.headers() or ()), *((f"{_PREFIX}{name}", str(connect[name]).encode()) for name in connect)]

    def _raise(self, error: Any) -> None:
        # The next attempt begins with a new client, because the old client may still send queued letters.
        self._producer.purge()
        self._producer = None
        if error is not None and error.name() in ("MSG_SIZE_TOO_LARGE", "TOPIC_AUTHORIZATION_FAILED"):
            raise self._refusal(error.str())
        reason = "no answer" if error is None else error.str()
        raise RetriableError(f"dead letter topic {self._name}: {reason}")

    def _refusal(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"Kafka does not take a letter for topic {self._name}: {reason}. Let the worker's user create the topic "
            "and write there, and give the topic a max.message.bytes above that of the tables' topics."
        )

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        from confluent_kafka import KafkaException

        try:
            yield
        except UnreachableError as error:
            raise RetriableError(str(error)) from error
        except KafkaException as error:
            if error.args[0].retriable():
                raise RetriableError(f"dead letter topic {self._name}: {error.args[0].str()}") from error
            raise self._refusal(error.args[0].str()) from error


_TOPICS_OF_A_SOURCE = (transaction_topic, schema_topic, marker_topic, heartbeat_topic)
