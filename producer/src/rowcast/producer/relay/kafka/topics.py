"""Create missing topics. An existing topic keeps its settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import wait as wait_for

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from rowcast.producer.relay.kafka.errors import error_in, to_rowcast_error
from rowcast.producer.relay.kafka.size_limits import SizeLimits
from rowcast.shared.config.topic_settings import TableTopicSettings, TopicSettings
from rowcast.shared.kafka.clients import Properties, new_admin, unreachable
from rowcast.shared.kafka.topic_names import marker_topic, schema_topic, table_topic, transaction_topic

_log = logging.getLogger("rowcast.relay")

_TIMEOUT_S = 10.0
_RENEW_EVERY_S = 1.0


class Topics:
    """Create and remember the topics of a source on a cluster. ``limits``: the size limits of the topics."""

    embedded = False
    """Whether the Kafka is the embedded one, which loses everything when its process ends."""

    def __init__(self, properties: Properties, source: str, settings: TopicSettings) -> None:
        self._properties = properties
        self._settings = settings
        self._schema = schema_topic(source)
        self._transaction = transaction_topic(source)
        self._marker = marker_topic(source)
        self._table_settings: dict[str, TableTopicSettings] = {}
        for full_name, own in settings.tables.items():
            schema, table = full_name.split(".", 1)
            self._table_settings[table_topic(source, schema, table, settings.template)] = own
        self._own = {self._schema, self._transaction, self._marker}
        self._existing: set[str] | None = None
        self._ensured: set[str] = set()
        self.limits = SizeLimits(properties)

    def ensure_own(self, others: Iterable[str], renew_lease: Callable[[], None]) -> None:
        """Ensure the topics that each source has for any set of tables, and ``others``. Raises as ``ensure``."""
        self._own |= set(others)
        self.ensure(self._own, renew_lease)

    def ensure(self, names: Iterable[str], renew_lease: Callable[[], None]) -> None:
        """Create the topics that do not exist, and fetch the size limits of all of them.

        ``renew_lease`` is called about once a second. Raises UnreachableError or RetriableError if Kafka does not
        answer, ConfigurationError if Kafka refuses to create a topic.
        """
        new = set(names) - self._ensured
        if not new:
            return
        missing = new - (self._existing or set())
        admin = new_admin(self._properties, "relay")
        if self._existing is None:
            try:
                self._existing = set(admin.list_topics(timeout=_TIMEOUT_S).topics)
            except KafkaException as error:
                raise unreachable(self._properties, error) from error
            missing -= self._existing
        renew_lease()
        if missing:
            self._create(admin, sorted(missing), renew_lease)
        self._existing |= missing
        self._fetch_limits(admin, new)
        self._ensured |= new

    def _fetch_limits(self, admin: AdminClient, names: Iterable[str]) -> None:
        self.limits.fetch(names, admin)

    def _create(self, admin: AdminClient, names: Iterable[str], renew_lease: Callable[[], None]) -> None:
        futures = admin.create_topics([self._new_topic(name) for name in names], request_timeout=3 * _TIMEOUT_S)
        for name, future in futures.items():
            while not wait_for((future,), _RENEW_EVERY_S).done:
                renew_lease()
            try:
                future.result()
                _log.info("created the topic %s", name)
            except KafkaException as error:
                if error_in(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise to_rowcast_error(error, f"creating the topic {name}") from error

    def _new_topic(self, name: str) -> NewTopic:
        settings, own = self._settings, self._table_settings.get(name, TableTopicSettings())
        partitions = 1 if name in self._own else own.partitions or settings.partitions
        factor = settings.replication_factor if own.replication_factor is None else own.replication_factor
        config = self._topic_config(name, own)
        return NewTopic(name, num_partitions=partitions, replication_factor=factor, config=config)

    def _topic_config(self, name: str, own: TableTopicSettings) -> dict[str, str]:
        if name == self._transaction:
            return {"cleanup.policy": "delete", "retention.ms": str(self._settings.transaction_retention_ms)}
        if name == self._marker:
            # Only the last marker matters. Hundreds of markers a second would fill the default segment of a gigabyte.
            return {"cleanup.policy": "compact", "segment.bytes": str(10 * 1024 * 1024)}
        config: dict[str, str] = {"cleanup.policy": own.cleanup_policy}
        if "compact" in own.cleanup_policy:
            lag = own.min_compaction_lag_ms
            config["min.compaction.lag.ms"] = str(self._settings.min_compaction_lag_ms if lag is None else lag)
        if own.retention_ms is not None:
            config["retention.ms"] = str(own.retention_ms)
        return config


class EmbeddedTopics(Topics):
    """Ensure the topics of the embedded Kafka, which cannot create topics, but adds each requested topic."""

    embedded = True

    def _create(self, admin: AdminClient, names: Iterable[str], renew_lease: Callable[[], None]) -> None:
        for name in names:
            admin.list_topics(name, timeout=_TIMEOUT_S)

    def _fetch_limits(self, admin: AdminClient, names: Iterable[str]) -> None:
        """Do nothing, because the embedded Kafka has no topic settings to fetch."""
