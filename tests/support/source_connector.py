"""Run a source connector of Debezium under Kafka Connect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from servers import Connect


@contextmanager
def connector(connect: Connect, name: str, settings: Mapping[str, str]) -> Iterator[None]:
    """Run a source connector until the block ends."""
    connect.put(name, settings)
    try:
        yield
    finally:
        connect.drop(name)
