"""Follow one row from the primary through outbox and topic to each replica, and say where it is stuck."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from rowcast.consumer.events.row_layout import RowLayout
from rowcast.consumer.replica.positions import read_positions
from rowcast.consumer.topics.records import TopicRecord
from rowcast.consumer.topics.search import search
from rowcast.consumer.topics.selection import Selection
from rowcast.consumer.topics.source_topics import source_topics
from rowcast.consumer.verification.compared_database import ComparedDatabase
from rowcast.consumer.verification.compared_table import ComparedTable
from rowcast.consumer.verification.row_forms import RowForms
from rowcast.consumer.views.replica_view import ReplicaView
from rowcast.shared.cli.contributions import TRACE, load_contributions
from rowcast.shared.cli.durations import duration_text
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.suggestions import did_you_mean
from rowcast.shared.tables.shape import INTEGER_TYPES, TableShape
from rowcast.shared.tables.shape_store import written_shapes

Row = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One place on the row's way. ``is_stuck``: the row has not passed the place, and ``text`` says why.

    ``is_known``: the place has the row, or an event of the row.
    """

    place: str
    text: str
    is_stuck: bool = False
    is_known: bool = True


def trace(settings: Settings, table: str, key: str) -> Iterator[TraceStep]:
    """Yield the steps of a row in the order of its way.

    ``table``: ``schema.table``, or the table alone. ``key``: the key's values, separated by commas, or a JSON object.
    Raise ConfigurationError and UnreachableError.
    """
    primary = ComparedDatabase(settings.require_primary(), "primary")
    try:
        shapes = {shape.full_name: shape for shape in written_shapes(primary.engine)}
        shape = _shape_named(table, list(shapes.values()))
        columns = parse_key(shape, key)
        ours = _row(primary, shape, columns, settings, is_replica=False)
    finally:
        primary.close()
    is_there = ours is not None
    yield TraceStep("primary", "the row is there" if is_there else "there is no such row", is_known=is_there)
    yield _in_outbox(settings, shape, columns)
    record = _in_topic(settings, shape, columns)
    yield _topic_step(record, ours)
    for name in settings.replicas:
        view = ReplicaView(settings.replica(name), shapes.get)
        yield _in_replica(settings, name, shape, view, columns, ours, record)


def _shape_named(table: str, shapes: list[TableShape]) -> TableShape:
    for shape in shapes:
        if table in (shape.full_name, shape.name):
            return shape
    known = ", ".join(shape.full_name for shape in shapes) or "none yet"
    meant = did_you_mean(table, [name for shape in shapes for name in (shape.full_name, shape.name)])
    raise ConfigurationError(f"no table {table!r} is captured (captured: {known}).{meant}")


def parse_key(shape: TableShape, text: str) -> dict[str, Any]:
    """Return the columns of a key in the contract's encodings. Raise ConfigurationError."""
    names = shape.primary_key
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, dict):
        if found.keys() != set(names):
            raise ConfigurationError(f"the primary key of {shape.full_name} is {', '.join(names)}, not {text}.")
        return {name: found[name] for name in names}
    values = [text] if len(names) == 1 else text.split(",")
    if len(values) != len(names):
        raise ConfigurationError(f"give the key of {shape.full_name} as {','.join(name.upper() for name in names)}.")
    return {name: _encoded(shape, name, value) for name, value in zip(names, values, strict=True)}


def _encoded(shape: TableShape, name: str, value: str) -> Any:
    if shape.column(name).type.name not in INTEGER_TYPES:
        return value
    try:
        return int(value)
    except ValueError:
        raise ConfigurationError(f"{value!r} is no integer, as {name} of {shape.full_name} is.") from None


def _row(
    database: ComparedDatabase, shape: TableShape, key: dict[str, Any], settings: Settings, *, is_replica: bool
) -> Row:
    table = ComparedTable(database, shape, is_replica=is_replica, settings=settings.table(shape))
    if not table.exists:
        return None
    with database.connect() as connection:
        found = table.find(connection, [key])
    return orjson.loads(found[0][1]) if found else None


def _in_outbox(settings: Settings, shape: TableShape, key: dict[str, Any]) -> TraceStep:
    waiting = [change for _, find in load_contributions(TRACE) for change in find(settings, shape.full_name, key)]
    if not waiting:
        return TraceStep("outbox", "no change of the row waits", is_known=False)
    oldest = waiting[0]
    text = f"{len(waiting)} changes wait, the oldest for {duration_text(oldest.age_ms)} (transaction {oldest.tx})"
    return TraceStep("outbox", f"{text}. See whether a relay runs: rowcast status", is_stuck=True)


def _in_topic(settings: Settings, shape: TableShape, key: dict[str, Any]) -> TopicRecord | None:
    selection = Selection((shape.full_name,), orjson.dumps(key).decode())
    with source_topics(settings, selection.tables) as topics:
        events = [record for record in search(topics, selection, 2).newest if record.event is not None]
    return events[-1] if events else None


def _topic_step(record: TopicRecord | None, ours: Row) -> TraceStep:
    if record is None:
        text = "there is no event of the row"
        if ours is None:
            return TraceStep("topic", text, is_known=False)
        return TraceStep("topic", f"{text}. A row from before the capture needs rowcast snapshot", is_stuck=True)
    assert record.event is not None
    return TraceStep("topic", f"{record.what} with lsn {record.event.lsn} is the last event, at {record.place}")


def _in_replica(
    settings: Settings, name: str, shape: TableShape, view: ReplicaView, key: dict[str, Any], ours: Row,
    record: TopicRecord | None,
) -> TraceStep:  # fmt: skip
    place = f"replica {name}"
    viewed, rows = view.viewed(shape).shape, view.rows(RowLayout(shape, tuple(c.name for c in shape.columns)))
    wanted = ours if ours is None or rows is None else rows.row(ours)
    database = ComparedDatabase(settings.replica(name), place)
    try:
        theirs = _row(database, viewed, key, settings, is_replica=True)
        with database.connect() as connection:
            positions = read_positions(connection, settings.source)
    finally:
        database.close()
    if record is not None:
        position = positions.get((record.topic, record.partition))
        if position is None or position.next_offset <= record.offset:
            read = "nothing" if position is None else f"up to offset {position.next_offset - 1}"
            text = f"the event is not applied: the worker has read {read} of partition {record.partition}"
            return TraceStep(place, f"{text}. rowcast status says why", is_stuck=True)
    if wanted is None and theirs is None and ours is not None:
        return TraceStep(place, "the view of the replica does not take the row", is_known=False)
    return _compared(place, name, viewed, wanted, theirs)


def _compared(place: str, name: str, shape: TableShape, ours: Row, theirs: Row) -> TraceStep:
    if ours is None or theirs is None:
        if ours is theirs:
            return TraceStep(place, "there is no such row, as on the primary", is_known=False)
        text = "the row is missing" if theirs is None else "the row is there, and should not be"
    elif columns := RowForms(shape).different_columns(ours, theirs):
        text = f"the row differs in {', '.join(columns)}"
    else:
        return TraceStep(place, "the row is equal to the primary's")
    return TraceStep(place, f"{text}. Compare: rowcast verify {name} --table {shape.full_name}", is_stuck=True)
