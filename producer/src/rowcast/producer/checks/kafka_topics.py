"""Check whether Kafka answers, and whether the topics keep the rows for a replica."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.producer.outbox.schema import outbox_tables
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine
from rowcast.shared.errors import ConfigurationError, RowcastError, UnreachableError
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.kafka import clients
from rowcast.shared.kafka.topic_names import schema_topic, transaction_topic

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

_AREA = "Kafka"
_EXTRA = "relay"


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    policy: str
    one_partition: bool = False


def kafka(settings: Settings) -> Iterator[Finding]:
    """Yield the findings about Kafka and the topics of this source."""
    try:
        properties = settings.require_kafka()
        metadata = clients.reach(properties, _EXTRA)
    except ConfigurationError as error:
        yield Finding(_AREA, Verdict.configuration, str(error))
        return
    except UnreachableError as error:
        yield Finding(_AREA, Verdict.unreachable, str(error))
        return
    brokers = len(metadata.brokers)
    yield Finding(
        _AREA, Verdict.ok, f"{brokers} broker{'s' if brokers > 1 else ''} at {properties['bootstrap.servers']}"
    )
    if clients.is_embedded(metadata):
        yield Finding(
            _AREA,
            Verdict.warning,
            "this is the embedded Kafka: in memory, without fencing or isolation",
            "use it for demonstrations and fast tests only, and name a real Kafka in [kafka] for everything else",
        )
        return
    admin = clients.new_admin(properties, _EXTRA)
    tables = _tables(settings)
    if tables and (unknown := sorted(settings.topics.tables.keys() - set(tables))):
        yield Finding(
            _AREA,
            Verdict.warning,
            f"[topics.tables] names tables that were never captured: {', '.join(unknown)}",
            f"the captured tables are {', '.join(tables)}",
        )
    wanted = _wanted(settings, tables)
    for topic in wanted:
        if topic.name not in metadata.topics:
            yield Finding(
                _AREA,
                Verdict.warning,
                f"topic {topic.name} does not exist yet",
                "the relay creates it when needed",
            )
    present = [topic for topic in wanted if topic.name in metadata.topics]
    faults = [*_policies(admin, present), *_replication(metadata, present, settings)]
    yield from faults
    if present and not faults:
        yield Finding(_AREA, Verdict.ok, f"{len(present)} topics have the right cleanup policy and replication")


def _wanted(settings: Settings, tables: list[str]) -> list[_Wanted]:
    source = settings.source
    own = [
        _Wanted(transaction_topic(source), "delete", one_partition=True),
        _Wanted(schema_topic(source), "compact", one_partition=True),
    ]
    return [*own, *(_Wanted(settings.topic_of(*name.split(".", 1)), _policy(settings, name)) for name in tables)]


def _policy(settings: Settings, table: str) -> str:
    own = settings.topics.tables.get(table)
    return own.cleanup_policy if own is not None else "compact"


def _tables(settings: Settings) -> list[str]:
    """Return the tables with a shape, as ``schema.table``. Empty if the primary does not answer.

    Another check reports a primary without an answer.
    """
    if settings.primary is None:
        return []
    shape = outbox_tables(sa.MetaData()).shape
    try:
        engine = open_engine(settings.primary.sqlalchemy_url, "primary", pooled=False)
        with engine.connect() as connection:
            names = connection.scalars(sa.select(shape.c.table_name).distinct().order_by(shape.c.table_name)).all()
    except (RowcastError, exc.DBAPIError):
        return []
    return list(names)


def _policies(admin: AdminClient, topics: list[_Wanted]) -> Iterator[Finding]:
    """Check the cleanup policies of the topics.

    A table's topic without compaction loses rows. A compacted transaction topic loses boundaries.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource, ResourceType

    wanted = {ConfigResource(ResourceType.TOPIC, topic.name): topic for topic in topics}
    if not wanted:
        return
    for resource, answer in admin.describe_configs(list(wanted), request_timeout=10).items():
        topic = wanted[resource]
        try:
            policy = answer.result()["cleanup.policy"].value
        except KafkaException as error:
            yield Finding(
                _AREA,
                Verdict.warning,
                f"topic {topic.name}: its settings cannot be read ({error.args[0].str()})",
                f"allow DescribeConfigs, or make sure that cleanup.policy is {topic.policy}",
            )
            continue
        if set(policy.split(",")) != set(topic.policy.split(",")):
            yield Finding(
                _AREA,
                Verdict.missing,
                f"topic {topic.name} has cleanup.policy={policy}, not {topic.policy}",
                f"kafka-configs.sh --alter --entity-type topics --entity-name {topic.name} "
                f"--add-config cleanup.policy={topic.policy}",
            )


def _replication(metadata: Any, topics: list[_Wanted], settings: Settings) -> Iterator[Finding]:
    wanted = settings.topics.replication_factor
    for topic in topics:
        partitions = metadata.topics[topic.name].partitions.values()
        replicas = min(len(p.replicas) for p in partitions)
        if replicas < wanted or (wanted == -1 and replicas == 1 < len(metadata.brokers)):
            yield Finding(
                _AREA,
                Verdict.warning,
                f"topic {topic.name} has {replicas} replica{'s' if replicas > 1 else ''} of each message",
                "add replicas with kafka-reassign-partitions.sh, because losing that broker loses the topic",
            )
        if topic.one_partition and len(partitions) > 1:
            yield Finding(
                _AREA,
                Verdict.warning,
                f"topic {topic.name} has {len(partitions)} partitions, but only the first is used",
                "nothing to do: no message is lost",
            )
