"""Write replayed events to one topic of any name, in the order of their commits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S, partition_ends, partitions_of
from rowcast.consumer.replay.kafka_transactions import KafkaTransactions, kafka_transactions, rest_of
from rowcast.consumer.replay.replay import NewOutput, WholeTransaction
from rowcast.consumer.topics.messages_between import messages_between
from rowcast.consumer.topics.records import read_record
from rowcast.consumer.topics.source_topics import SourceTopics
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, DataError
from rowcast.shared.kafka.clients import new_admin, unreachable
from rowcast.shared.kafka.topic_names import marker_topic, schema_topic, transaction_topic

# The last records before the end are control records and events.
_LOOK_BACK = 1_000


def to_one_topic(settings: Settings, topic: str) -> NewOutput:
    """Return the output to the first partition of ``topic``, for ``replay``.

    A missing topic is created with one partition, and keeps its messages as the broker's default says. Raise
    ConfigurationError for a topic of the source, for a compacted topic, and for a topic with other messages.
    """

    @contextmanager
    def output(topics: SourceTopics, viewer: Any) -> Iterator[OneTopic]:
        source = settings.source
        own = {*topics.topics.values(), transaction_topic(source), schema_topic(source), marker_topic(source)}
        if topic in own:
            raise ConfigurationError(f"--to-topic {topic}: this is a topic of source {source} itself. Choose another.")
        if partitions_of(viewer, [topic]):
            _require_kept(settings, topic)
        else:
            _create(settings, topic)
        with kafka_transactions(settings, topic) as transactions:
            yield OneTopic(transactions, topic, _last_lsn(viewer, settings, topic))

    return output


class OneTopic:
    """Write the events of transactions after ``last_lsn``, with the keys, values and headers of the source."""

    def __init__(self, transactions: KafkaTransactions, topic: str, last_lsn: int) -> None:
        self._transactions = transactions
        self._topic = topic
        self._last_lsn = last_lsn

    def write(self, transaction: WholeTransaction) -> None:
        """Write the events of a transaction, unless an earlier replay has written them."""
        # The events of a transaction are committed together, so the last event stands for the whole transaction.
        if self._last_lsn and _first_lsn(transaction) <= self._last_lsn:
            return
        # Every later transaction is new.
        self._last_lsn = 0
        self._transactions.produce(
            (self._topic, message.content, message.of_key, 0, *rest_of(message)) for message in transaction.messages
        )
        self._transactions.commit_if_due()


def _first_lsn(transaction: WholeTransaction) -> int:
    event = read_record(next(iter(transaction.messages))).event
    return transaction.end_event.lsn if event is None else event.lsn


def _last_lsn(viewer: Any, settings: Settings, topic: str) -> int:
    """Return the lsn of the last event that Kafka has committed in the topic, or 0. Raise ConfigurationError."""
    place, last = (topic, 0), 0
    first, end = partition_ends(viewer, [place])[place]
    for message in messages_between(viewer, settings, {place: max(first, end - _LOOK_BACK)}, {place: end}):
        try:
            event = read_record(message).event
        except DataError:
            event = None
        if event is None:
            raise ConfigurationError(
                f"--to-topic {topic}: the topic has messages that are no events of rowcast, at offset "
                f"{message.offset()}. Choose another topic."
            )
        last = max(last, event.lsn)
    return last


def _create(settings: Settings, topic: str) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import NewTopic

    copies = settings.topics.replication_factor
    new = NewTopic(topic, num_partitions=1, replication_factor=copies, config={"cleanup.policy": "delete"})
    admin = new_admin(settings.require_kafka(), "worker")
    try:
        admin.create_topics([new], request_timeout=KAFKA_TIMEOUT_S)[topic].result()
    except KafkaException as error:
        if error.args[0].retriable():
            raise unreachable(settings.kafka, error) from error
        raise ConfigurationError(
            f"Kafka refuses to create topic {topic}: {error.args[0].str()}. Give the user of [kafka] the right, or "
            "create the topic."
        ) from error


def _require_kept(settings: Settings, topic: str) -> None:
    """Raise ConfigurationError for a compacted topic, which would keep only the last event of each row."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource

    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = new_admin(settings.require_kafka(), "worker")
    try:
        config = admin.describe_configs([resource], request_timeout=KAFKA_TIMEOUT_S)[resource].result()
    except KafkaException as error:
        raise ConfigurationError(
            f"the settings of topic {topic} are not known ({error.args[0].str()}). Allow the user of [kafka] "
            "DescribeConfigs, because a compacted topic would lose events."
        ) from error
    if "compact" in config["cleanup.policy"].value:
        raise ConfigurationError(
            f"--to-topic {topic}: the topic is compacted, so Kafka would keep only the last event of each row. Choose "
            "another topic, or set its cleanup.policy to delete."
        )
