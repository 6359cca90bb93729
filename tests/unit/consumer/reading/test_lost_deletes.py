"""Missing offsets are harmless as long as the topic keeps tombstones for longer than the worker was away."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from rowcast.consumer.reading.lost_deletes import LostDeletes
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError

HOUR_MS = 3_600_000
NOW_MS = int(time.time() * 1000)


def message(offset: int, at_ms: int) -> Any:
    return SimpleNamespace(offset=lambda: offset, timestamp=lambda: (1, at_ms))


def followed(known_ms: int) -> tuple[LostDeletes, PartitionStream]:
    """Return a look at partitions that are read independently, in a topic that keeps deletes for an hour."""
    deletes = LostDeletes(Settings(source="shop"), [("a", 0)], lambda *_: HOUR_MS)
    deletes.known_in = {("a", 0): known_ms}
    return deletes, PartitionStream(("a", 0), "table", 10)


def test_a_partition_that_was_read_lately_may_lack_offsets() -> None:
    deletes, stream = followed(NOW_MS - HOUR_MS // 2)
    deletes.examine(stream, [message(15, NOW_MS)])
    assert deletes.known_in == {("a", 0): NOW_MS}


def test_a_partition_that_was_away_for_long_may_not() -> None:
    deletes, stream = followed(NOW_MS - 2 * HOUR_MS)
    with pytest.raises(DataError, match="compaction has removed records"):
        deletes.examine(stream, [message(15, NOW_MS)])


def test_records_without_a_gap_say_until_when_deletes_are_known() -> None:
    deletes, stream = followed(NOW_MS - 9 * HOUR_MS)
    deletes.examine(stream, [message(10, NOW_MS - 3 * HOUR_MS), message(11, NOW_MS - HOUR_MS // 2)])
    stream.next_offset = 12
    deletes.examine(stream, [message(20, NOW_MS)])


def test_at_the_end_everything_is_known() -> None:
    deletes, stream = followed(NOW_MS - 9 * HOUR_MS)
    deletes.note_end(stream)
    deletes.examine(stream, [message(20, NOW_MS)])


def test_nothing_is_missed_in_a_partition_without_rows_on_the_replica() -> None:
    deletes, stream = followed(0)
    deletes.examine(stream, [message(20, NOW_MS - 9 * HOUR_MS)])
