"""The target topics of a replay: the topics of a separate source without a relay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import orjson

from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S, partition_ends, partitions_of
from rowcast.consumer.topics.messages_between import messages_between
from rowcast.consumer.topics.source_topics import SourceTopics
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.kafka.clients import new_admin, unreachable
from rowcast.shared.kafka.messages import parse_transaction
from rowcast.shared.kafka.signature import SignatureCheck
from rowcast.shared.kafka.topic_names import marker_topic, schema_topic, transaction_topic
from rowcast.shared.tables.shape_document import parse_shape

Message = tuple[str, bytes | None, bytes | None, int]
"""Topic, value, key and partition."""


class TargetTopics:
    """The topics of source ``name``, for the tables of ``topics``.

    Raise ConfigurationError for a source of a relay, and for topics that cannot take the messages.
    """

    def __init__(self, settings: Settings, name: str, topics: SourceTopics, viewer: Any) -> None:
        self._source = settings
        self._target = settings.model_copy(update={"source": name})
        self._viewer = viewer
        self.transactions = transaction_topic(name)
        self.schema = schema_topic(name)
        self._tables = frozenset(topics.topics)
        self.of = {topic: self._topic_of(table) for table, topic in topics.topics.items()}
        self._require_another(set(topics.topics.values()))

    def _topic_of(self, table: str) -> str:
        schema, _, name = table.partition(".")
        return self._target.topic_of(schema, name)

    def _require_another(self, topics: set[str]) -> None:
        name, present = self._target.source, self._source.source
        if self.transactions == transaction_topic(present) or topics & set(self.of.values()):
            raise ConfigurationError(
                f"--to-prefix {name}: these are topics of source {present} itself. Choose another prefix, and a "
                "`template` in [topics] with {source}."
            )
        if partitions_of(self._viewer, [marker_topic(name)]):
            raise ConfigurationError(
                f"--to-prefix {name}: a relay publishes a source of this name, whose messages must not be mixed with "
                "others. Choose another prefix."
            )

    def create(self) -> None:
        """Create missing topics, with the partitions of the source's topics."""
        from confluent_kafka.admin import NewTopic

        settings = self._source.topics
        lag = {"min.compaction.lag.ms": str(settings.min_compaction_lag_ms)}
        wanted = {
            self.schema: (1, {"cleanup.policy": "compact"}),
            self.transactions: (
                1,
                {"cleanup.policy": "delete", "retention.ms": str(settings.transaction_retention_ms)},
            ),
        }
        for topic, numbers in partitions_of(self._viewer, self.of).items():
            wanted[self.of[topic]] = len(numbers), {"cleanup.policy": "compact", **lag}
        existing = partitions_of(self._viewer, wanted)
        for topic, numbers in existing.items():
            if len(numbers) < wanted[topic][0]:
                raise ConfigurationError(
                    f"topic {topic} has {len(numbers)} partitions, and the messages are in {wanted[topic][0]}. Choose "
                    "another prefix, or delete the topic."
                )
        new = [
            NewTopic(topic, num_partitions=number, replication_factor=settings.replication_factor, config=config)
            for topic, (number, config) in wanted.items()
            if topic not in existing
        ]
        if new:
            admin = new_admin(self._source.require_kafka(), "worker")
            self._require_created(admin.create_topics(new, request_timeout=3 * KAFKA_TIMEOUT_S))

    def _require_created(self, created: Mapping[str, Future[None]]) -> None:
        from confluent_kafka import KafkaException

        for topic, future in created.items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].name() == "TOPIC_ALREADY_EXISTS":
                    continue
                if error.args[0].retriable():
                    raise unreachable(self._source.kafka, error) from error
                raise ConfigurationError(
                    f"Kafka refuses to create topic {topic}: {error.args[0].str()}. Give the user of [kafka] the "
                    "right, or create the topic."
                ) from error

    def last_lsn(self) -> int:
        """Return the lsn of the last END that an earlier replay has written and Kafka has committed, or 0."""
        last = 0
        for message in self._messages(self.transactions):
            event = parse_transaction(message.value())
            last = event.lsn if event.status == "END" else last
        return last

    def shapes(self) -> Iterator[Message]:
        """Yield the shapes of the tables as messages of the target source."""
        topic = schema_topic(self._source.source)
        signatures = SignatureCheck(self._source.signature_keys)
        for message in self._messages(topic):
            signatures.check(topic, message.key(), message.value(), message.headers())
            if parse_shape(message.value()).full_name in self._tables:
                yield self.schema, self._renamed(message.value()), message.key(), 0

    def _renamed(self, value: bytes) -> bytes:
        """Return a shape of the target source. The rows of a snapshot that is under way are not to be waited for."""
        document: dict[str, Any] = orjson.loads(value) | {"source": self._target.source}
        document.pop("snapshot", None)
        return orjson.dumps(document)

    def _messages(self, topic: str) -> Iterable[Any]:
        place = topic, 0
        if not partitions_of(self._viewer, [topic]):
            return ()
        first, end = partition_ends(self._viewer, [place])[place]
        found = messages_between(self._viewer, self._source, {place: first}, {place: end})
        return (message for message in found if message.value() is not None)
