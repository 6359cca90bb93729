"""Creates the topics that do not exist yet. A topic that exists is left as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import wait as wait_for

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it does, without saying so

from rowcast.producer.relay.kafka_errors import error_in, meaning
from rowcast.producer.relay.sizes import SizeLimits
from rowcast.shared.config import TableTopicSettings, TopicSettings
from rowcast.shared.events import marker_topic, schema_topic, table_topic, transaction_topic
from rowcast.shared.kafka import Properties, new_admin, unreachable

_log = logging.getLogger("rowcast.relay")

_TIMEOUT_S = 10.0
_SLICE_S = 1.0


class Topics:
    """One source's topics on one cluster."""

    def __init__(self, properties: Properties, source: str, settings: TopicSettings) -> None:
        self._properties = properties
        self._settings = settings
        self._schema = schema_topic(source)
        self._transaction = transaction_topic(source)
        self._marker = marker_topic(source)
        self._of_tables: dict[str, TableTopicSettings] = {}
        for full_name, own in settings.tables.items():
            schema, table = full_name.split(".", 1)
            self._of_tables[table_topic(source, schema, table, settings.template)] = own
        self._own = {self._schema, self._transaction, self._marker}
        self._there: set[str] | None = None
        self._known: set[str] = set()
        self.limits = SizeLimits(properties)

    def ensure_own(self, others: Iterable[str], waiting: Callable[[], None]) -> None:
        """The topics that every source has, whatever its tables, and ``others``. As ``ensure``."""
        self._own |= set(others)
        self.ensure(self._own, waiting)

    def ensure(self, names: Iterable[str], waiting: Callable[[], None]) -> None:
        """Creates those that are missing, and learns how large their messages may be; ``waiting`` is called about once
        a second meanwhile.

        Raises UnreachableError or RetriableError, or ConfigurationError if Kafka does not allow it.
        """
        new = set(names) - self._known
        if not new:
            return
        missing = new - (self._there or set())
        admin = new_admin(self._properties, "relay")
        if self._there is None:
            try:
                self._there = set(admin.list_topics(timeout=_TIMEOUT_S).topics)
            except KafkaException as error:
                raise unreachable(self._properties, error) from error
            missing -= self._there
        waiting()
        if missing:
            self._create(admin, sorted(missing), waiting)
        self._there |= missing
        self._learn(admin, new)
        self._known |= new

    def _learn(self, admin: AdminClient, names: Iterable[str]) -> None:
        self.limits.learn(names, admin)

    def _create(self, admin: AdminClient, names: Iterable[str], waiting: Callable[[], None]) -> None:
        futures = admin.create_topics([self._new(name) for name in names], request_timeout=3 * _TIMEOUT_S)
        for name, future in futures.items():
            while not wait_for((future,), _SLICE_S).done:
                waiting()
            try:
                future.result()
                _log.info("created the topic %s", name)
            except KafkaException as error:
                if error_in(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise meaning(error, f"creating the topic {name}") from error

    def _new(self, name: str) -> NewTopic:
        settings, own = self._settings, self._of_tables.get(name, TableTopicSettings())
        partitions = own.partitions or settings.partitions
        config: dict[str, str] = {"cleanup.policy": own.cleanup_policy}
        if "compact" in own.cleanup_policy:
            lag = own.min_compaction_lag_ms
            config["min.compaction.lag.ms"] = str(settings.min_compaction_lag_ms if lag is None else lag)
        if own.retention_ms is not None:
            config["retention.ms"] = str(own.retention_ms)
        if name in self._own:
            partitions = 1
        if name == self._transaction:
            config = {"cleanup.policy": "delete", "retention.ms": str(settings.transaction_retention_ms)}
        elif name == self._marker:
            # Only the last record matters, and hundreds a second would fill the default segment's gigabyte.
            config = {"cleanup.policy": "compact", "segment.bytes": str(10 * 1024 * 1024)}
        factor = settings.replication_factor if own.replication_factor is None else own.replication_factor
        return NewTopic(name, num_partitions=partitions, replication_factor=factor, config=config)


class EmbeddedTopics(Topics):
    """The embedded Kafka's: they cannot be created, and come into being when somebody asks for them."""

    def _create(self, admin: AdminClient, names: Iterable[str], waiting: Callable[[], None]) -> None:
        for name in names:
            admin.list_topics(name, timeout=_TIMEOUT_S)

    def _learn(self, admin: AdminClient, names: Iterable[str]) -> None:
        """It does not tell."""
