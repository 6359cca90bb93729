"""Run a source connector of Debezium under Kafka Connect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from servers import Connect
from support.worker_runs import Database


def connector_settings(name: str, database: str, **own: str) -> dict[str, str]:
    """Return the settings of a source connector for a database."""
    url = sa.make_url(database)
    return {
        "database.hostname": str(url.host),
        "database.port": str(url.port),
        "database.user": str(url.username),
        "database.password": str(url.password),
        "topic.prefix": name,
        "provide.transaction.metadata": "true",
        "skipped.operations": "none",
        "poll.interval.ms": "50",
        "topic.creation.default.replication.factor": "1",
        "topic.creation.default.partitions": "1",
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        **own,
    }


def held(database: Database, columns: Mapping[str, str]) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of each table, in an order that does not depend on the engine. ``columns``: SQL by table."""
    with database.engine.connect() as connection:
        return {
            table: sorted((tuple(row) for row in connection.exec_driver_sql(f"SELECT {wanted} FROM {table}")), key=repr)
            for table, wanted in columns.items()
        }


@contextmanager
def connector(connect: Connect, name: str, settings: Mapping[str, str]) -> Iterator[None]:
    """Run a source connector until the block ends."""
    connect.put(name, settings)
    try:
        yield
    finally:
        connect.drop(name)
