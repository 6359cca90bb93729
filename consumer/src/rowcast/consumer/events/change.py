"""A change in the worker: the checked raw bytes of key and row image, with topic, partition and offset."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, NamedTuple, Self

import orjson

from rowcast.consumer.events.connect_decoder import WITH_SCHEMA, plain_message
from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayout, RowLayouts
from rowcast.consumer.events.value_types import require_types
from rowcast.shared import row_values
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import ChangeEvent, parse_change

# The relay begins an envelope with the first text and writes the second one after the image. `,"source":{` cannot occur
# inside an image, because an image escapes quotes in strings and has no objects as values.
_BEFORE_IMAGE = b'{"before":null,"after":'
_IMAGE_START = len(_BEFORE_IMAGE)
_AFTER_IMAGE = b',"source":{'
_OPS_WITH_ROW = frozenset(("c", "u", "r"))
# The constructor of the named tuple takes twice as long.
_new = tuple.__new__

MAX_NUMBER = 2**63 - 1

TRUNCATE_KEY = b""
"""The key of a truncate, which no row has."""

CREATING_OPS = frozenset(("c", "r"))


class Change(NamedTuple):
    """One event, ready to be applied.

    ``key``: the JSON of the primary key, or ``TRUNCATE_KEY`` for an event that deletes all rows of the table.
    ``after``: the JSON of the row image as received, or None for a delete. ``creates``: the event says that the row is
    new. A replica may have the row already, because snapshots and repetitions say so too.
    """

    layout: RowLayout
    key: bytes
    after: bytes | None
    lsn: int
    transaction: str | None
    ts_ms: int
    partition: Partition
    offset: int
    creates: bool = False

    @property
    def is_truncate(self) -> bool:
        """Return whether the event deletes all rows of the table."""
        return self.key == TRUNCATE_KEY

    def with_row(self, layout: RowLayout, after: bytes | None, *, creates: bool) -> Self:
        """Return the change with another layout and image. ``_replace`` takes four times as long."""
        return _new(type(self), (layout, self[1], after, *self[3:8], creates))

    def where(self) -> str:
        """Return table, topic, partition, offset, and the key if values are shown, as a text for messages."""
        topic, partition = self.partition
        key = " (truncate)" if self.is_truncate else row_values.key_suffix(self.key)
        return f"table {self.layout.table}{key} (topic {topic}, partition {partition}, offset {self.offset})"


# By index, because this takes half the time of an attribute, and for use with ``map``.
layout_of, key_of, image_of, lsn_of, transaction_of, offset_of, creates_of = (
    itemgetter(Change._fields.index(name))
    for name in ("layout", "key", "after", "lsn", "transaction", "offset", "creates")
)


class UnknownShapeError(DataError):
    """An event names a shape that the worker has not read yet."""


def read_change(
    key: bytes | None,
    value: bytes,
    partition: Partition,
    offset: int,
    layouts: RowLayouts,
    *,
    infer: bool = False,
) -> Change | None:
    """Read one message of a table topic, with or without a schema. Return None if the replica excludes the table.

    ``infer``: use the table's latest shape if the shape of the event is unknown, because the schema topic has been read
    to the end. Raise UnknownShapeError for an unknown shape without ``infer``, and DataError with the reason if the
    message is not a valid event.

    The body is the fast path for one event as the relay writes it. ``read_change_fully`` is the full path, and
    ``read_block`` is the fast path for many events.
    """
    if value.startswith(WITH_SCHEMA):
        key, value = plain_message(key, value)
    try:
        envelope = orjson.loads(value)
        source = envelope["source"]
        after = envelope["after"]
        transaction, op = envelope["transaction"], envelope["op"]
        layout = layouts.by_event_shape.get((source["schema"], source["table"], source["shape"]))
        lsn, ts_ms = source["lsn"], source["ts_ms"]
        if (
            layout is not None
            and key is not None
            and type(lsn) is int
            and 0 <= lsn <= MAX_NUMBER
            and type(ts_ms) is int
            and (op == "d" if after is None else op in _OPS_WITH_ROW)
        ):
            columns, forms = orjson.loads(key), layout.forms
            # A known form has the names and types of the layout.
            is_known = (*columns, *map(type, columns.values())) in forms.keys and (
                after is None or (*after, *map(type, after.values())) in forms.rows
            )
            if (is_known or _fits(layout, columns, after)) and (after is None or columns.items() <= after.items()):
                image = None if after is None else image_bytes(value, after)
                identity = transaction
                if transaction is not None:
                    identity = transaction["id"].partition(":")[0]
                creates = op in CREATING_OPS
                return _new(Change, (layout, key, image, lsn, identity, ts_ms, partition, offset, creates))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        pass  # The full path reads the message again and finds the fault.
    return read_change_fully(key, value, partition, offset, layouts, infer=infer)


def _fits(layout: RowLayout, key: dict[str, Any], after: dict[str, Any] | None) -> bool:
    """Return whether key and row have the columns of the layout. Raise DataError for a value of another type."""
    if tuple(key) != layout.key or not (after is None or after.keys() == layout.names):
        return False
    require_types(layout.shape, layout.forms, key, after)
    return True


def image_bytes(value: bytes, after: dict[str, Any]) -> bytes:
    """Return the original bytes of the image, cut out of the envelope.

    Serialize ``after`` for an envelope of another producer.

    An image that breaks the contract would be cut in the wrong place. The result is then not JSON, and the database
    refuses invalid JSON.
    """
    if value.startswith(_BEFORE_IMAGE) and (end := value.find(_AFTER_IMAGE, _IMAGE_START)) > 0:
        return value[_IMAGE_START:end]
    return orjson.dumps(after)


def read_change_fully(
    key: bytes | None, value: bytes, partition: Partition, offset: int, layouts: RowLayouts, *, infer: bool = False
) -> Change | None:
    """Read one plain message in any layout, and name the fault if the message is not an event.

    The function is the full path of ``read_change``, with equal parameters, result and errors. The image has the
    columns in the order of the layout.
    """
    event = parse_change(key, value)
    if not layouts.is_wanted(event.full_name):
        return None
    if event.op == "t":
        return _truncate(event, partition, offset, layouts)
    after = None if event.op == "d" else event.after
    layout = layouts.find(event.full_name, event.shape_version)
    is_inferred = layout is None
    if layout is None:
        if not infer:
            raise UnknownShapeError(f"shape {event.shape_version!r} of table {event.full_name} is not known")
        layout = layouts.infer(event.full_name, event.shape_version, event.key if after is None else after)
    if set(event.key) != set(layout.key):
        raise DataError(
            f"the key's columns are {sorted(event.key)}, but the primary key of {layout.table} is {sorted(layout.key)}"
        )
    # An inferred layout has only columns that the row has.
    if after is not None and not is_inferred and after.keys() != layout.names:
        raise DataError(f"the row of {layout.table} does not fit its shape: {_difference(layout, after)}")
    if after is not None and not event.key.items() <= after.items():
        raise DataError(f"the row of {layout.table} has another key than the message")
    row = None if after is None else {name: after[name] for name in layout.columns}
    # The fast path takes a key of a known form without change, so the order counts.
    ordered_key = {name: event.key[name] for name in layout.key}
    require_types(layout.shape, layout.forms, ordered_key, row if is_inferred else after)
    identity = None if event.transaction is None else event.transaction.partition(":")[0]
    image = None if row is None else orjson.dumps(row)
    return Change(
        layout, orjson.dumps(ordered_key), image, event.lsn, identity, event.ts_ms, partition, offset,
        event.op in CREATING_OPS,
    )  # fmt: skip


def _truncate(event: ChangeEvent, partition: Partition, offset: int, layouts: RowLayouts) -> Change:
    """Return the change for a truncate. It has no row, so any shape of the table serves."""
    shape = layouts.latest(event.full_name)
    if shape is None:
        raise UnknownShapeError(layouts.no_shape(event.full_name))
    layout = layouts.infer(event.full_name, event.shape_version, shape.primary_key)
    identity = None if event.transaction is None else event.transaction.partition(":")[0]
    return Change(layout, TRUNCATE_KEY, None, event.lsn, identity, event.ts_ms, partition, offset)


def _difference(layout: RowLayout, after: dict[str, Any]) -> str:
    """Name the columns missing in the row and the columns unknown to the shape."""
    differences = []
    if missing := layout.names - after.keys():
        differences.append(f"missing {', '.join(sorted(missing))}")
    if unknown := after.keys() - layout.names:
        differences.append(f"unknown {', '.join(sorted(unknown))}")
    return " and ".join(differences)
