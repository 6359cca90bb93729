"""Name the topics of a source."""

from __future__ import annotations

import re
from string import Formatter

_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")


TABLE_TOPIC = "{source}.{schema}.{table}"


def table_topic(source: str, schema: str, table: str, template: str = TABLE_TOPIC) -> str:
    """Return the topic of a table's events. Characters that Kafka does not allow become ``_``, as in Debezium."""
    return _ILLEGAL.sub("_", template.format(source=source, schema=schema, table=table))


def check_template(template: str) -> None:
    """Raise ValueError if ``table_topic`` cannot use the template."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r} is not a template: {error}") from None
    for text, name, form, conversion in parts:
        if illegal := sorted(set(_ILLEGAL.findall(text))):
            raise ValueError(f"Kafka allows no {' '.join(map(repr, illegal))} in a topic's name")
        if name is not None and (name not in ("source", "schema", "table") or form or conversion):
            raise ValueError("a topic's name is made of {source}, {schema}, {table}, letters, digits, '.', '_' and '-'")
    if "table" not in (name for _, name, _, _ in parts):
        raise ValueError("without {table} all tables would share a topic")


def transaction_topic(source: str) -> str:
    """Return the topic of the BEGIN and END of every transaction. All of them are in partition 0."""
    return f"{_ILLEGAL.sub('_', source)}.transaction"


def schema_topic(source: str) -> str:
    """Return the topic of the tables' shapes. All of them are in partition 0, and the topic is compacted."""
    return f"{_ILLEGAL.sub('_', source)}.schema"


def heartbeat_topic(source: str) -> str:
    """Return the topic of heartbeats. The name is Debezium's, because monitors know it."""
    return f"__debezium-heartbeat.{_ILLEGAL.sub('_', source)}"


def marker_topic(source: str) -> str:
    """Return the relay's own topic, which says up to which lsn Kafka has committed.

    The name does not begin with ``<source>.``, because consumers look for tables there.
    """
    return f"__rowcast.{_ILLEGAL.sub('_', source)}"


def dead_letter_topic(source: str, replica: str) -> str:
    """Return the topic of the events that a replica refused, unless the configuration names another topic."""
    return _ILLEGAL.sub("_", f"{source}.{replica}.dlq")
