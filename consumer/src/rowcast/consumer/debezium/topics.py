"""Find the topics of a connector's tables."""

from __future__ import annotations

from typing import Any

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading.topic_metadata import KAFKA_TIMEOUT_S, retry_transient
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.topic_names import transaction_topic


def table_of(source: str, topic: str) -> str | None:
    """Return ``schema.table`` of a topic, or None for a topic without a table of the source.

    The connector writes the changes of its schemas to the topic of its own name, and transactions to a separate topic.
    """
    prefix = f"{source}."
    table = topic.removeprefix(prefix) if topic.startswith(prefix) else ""
    return table if "." in table else None


def find_topics(client: Any, settings: Settings, layouts: RowLayouts) -> dict[str, list[int]]:
    """Return the numbers of the partitions of each existing wanted topic. Raise UnreachableError.

    The transaction topic is included if the replica applies transactions.
    """
    metadata = retry_transient(client, lambda: client.list_topics(timeout=KAFKA_TIMEOUT_S))
    found = {}
    for name, topic in metadata.topics.items():
        table = table_of(settings.source, name)
        if topic.error is None and (
            name == transaction_topic(settings.source) or (table is not None and layouts.is_wanted(table))
        ):
            found[name] = sorted(topic.partitions)
    return found
