"""Print records: two lines each for a terminal, or a JSON object each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from rowcast.consumer.events.position import Partition
from rowcast.consumer.topics.records import TopicRecord
from rowcast.consumer.topics.trace import TraceStep
from rowcast.shared.cli.output import print_json, print_line

_LONGEST_VALUE = 60


def print_record(record: TopicRecord, *, as_json: bool) -> None:
    """Print a record to standard output, at once."""
    print_line(orjson.dumps(as_data(record)).decode() if as_json else "\n".join(lines_of(record)))


def print_whole(record: TopicRecord) -> None:
    """Print all that is known of a record as indented JSON."""
    print_json(as_data(record))


def lines_of(record: TopicRecord) -> Iterator[str]:
    """Yield the lines of a record: when, what, where, and the row. Long values are cut."""
    event = record.event
    if event is None:
        key = "" if record.key is None else f" {_columns(record.key)}"
        yield f"{_time(record.published_ms)} {record.what}{key} ({record.place})"
        if record.fault is not None:
            yield f"    {record.fault}"
        return
    transaction = "" if event.transaction is None else f", tx {event.transaction}"
    key = f" {_columns(event.key)}" if event.key else ""
    yield f"{_time(event.ts_ms)} {record.what} {event.full_name}{key}"
    yield f"    lsn {event.lsn}{transaction}, {record.place}"
    rest = {name: value for name, value in (event.after or {}).items() if name not in event.key}
    if rest:
        yield f"    {_columns(rest)}"


def as_data(record: TopicRecord) -> dict[str, Any]:
    """Return a record as a JSON object. Times are in milliseconds since 1970."""
    data: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "published_ms": record.published_ms,
        "what": record.what,
        "key": record.key,
    }
    event = record.event
    if event is None:
        return data | ({} if record.fault is None else {"fault": record.fault})
    return data | {
        "source": event.source,
        "schema": event.schema,
        "table": event.table,
        "op": event.op,
        "lsn": event.lsn,
        "ts_ms": event.ts_ms,
        "transaction": event.transaction,
        "total_order": event.total_order,
        "shape": event.shape_version,
        "after": event.after,
    }


def print_topics(
    topics: Mapping[str, str], ends: Mapping[Partition, tuple[int, int]], others: Iterable[str], *, as_json: bool
) -> None:
    """Print each table's topic with its partitions and offsets, and the names of the source's other topics."""
    found = [
        {"table": table, "topic": topic, "partition": n, "first": first, "end": end}
        for table, topic in sorted(topics.items())
        for (name, n), (first, end) in sorted(ends.items())
        if name == topic
    ]
    if as_json:
        print_json({"partitions": found, "other_topics": list(others)})
        return
    for topic in sorted({str(one["topic"]) for one in found}):
        partitions = [one for one in found if one["topic"] == topic]
        print_line(f"{topic} (table {partitions[0]['table']})")
        for one in partitions:
            print_line(f"    partition {one['partition']}: offsets {one['first']:,} to {one['end']:,}")
    for other in others:
        print_line(other)


def print_trace(steps: Sequence[TraceStep], *, as_json: bool) -> int:
    """Print the steps of a row. Return 1 if the row is stuck, or 0."""
    stuck = [step.place for step in steps if step.is_stuck]
    if as_json:
        shown = [{"place": step.place, "text": step.text, "is_stuck": step.is_stuck} for step in steps]
        print_json({"arrived": not stuck, "steps": shown})
    else:
        arrived = "arrived everywhere" if any(step.is_known for step in steps) else "no such row, and no event of it"
        print_line(f"stuck: {', '.join(stuck)}" if stuck else arrived)
        width = max(len(step.place) for step in steps)
        for step in steps:
            print_line(f"  {step.place:<{width}}  {step.text}")
    return 1 if stuck else 0


def _time(ms: int) -> str:
    moment = datetime.fromtimestamp(ms / 1_000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{ms % 1_000:03d}Z"


def _columns(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in values.items())


def _value(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}… ({len(text):,} characters)"
