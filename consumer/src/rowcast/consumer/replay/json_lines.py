"""Write replayed events to standard output, a JSON object on a line each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from rowcast.consumer.replay.replay import WholeTransaction
from rowcast.consumer.topics.records import read_record
from rowcast.consumer.topics.report import as_data
from rowcast.consumer.topics.source_topics import SourceTopics
from rowcast.shared.cli.output import print_line


class JsonLines:
    """Write the events as ``rowcast topics search --json`` does."""

    def write(self, transaction: WholeTransaction) -> None:
        """Write the events of a transaction."""
        for message in transaction.messages:
            print_line(orjson.dumps(as_data(read_record(message))).decode())


@contextmanager
def to_standard_output(topics: SourceTopics, viewer: Any) -> Iterator[JsonLines]:
    """Yield an output that writes to standard output."""
    yield JsonLines()
    sys.stdout.flush()
