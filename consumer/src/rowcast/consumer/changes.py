"""A change as the worker carries it: the raw bytes of key and row image, checked, and where they came from."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from rowcast.consumer.connect_messages import WITH_SCHEMA, plain_message
from rowcast.consumer.layouts import Layout, Layouts
from rowcast.shared.errors import DataError
from rowcast.shared.events import parse_change

Partition = tuple[str, int]
"""Topic and partition."""

# How the relay begins an envelope, and what follows the image there. `,"source":{` cannot stand inside an image: its
# strings escape the quotes and its values are never objects.
_BEFORE_IMAGE = b'{"before":null,"after":'
_IMAGE_START = len(_BEFORE_IMAGE)
_AFTER_IMAGE = b',"source":{'
_OPS_WITH_ROW = frozenset(("c", "u", "r"))
# A named tuple's own constructor takes twice as long.
_new = tuple.__new__


class Change(NamedTuple):
    """One event, ready to be applied. ``after`` is the row image's JSON as it came, None for a delete."""

    layout: Layout
    key: bytes
    after: bytes | None
    lsn: int
    transaction: str | None
    ts_ms: int
    partition: Partition
    offset: int

    def where(self) -> str:
        """For messages: table, key, topic, partition, offset."""
        topic, partition = self.partition
        return (
            f"table {self.layout.table}, key {self.key.decode(errors='replace')} "
            f"(topic {topic}, partition {partition}, offset {self.offset})"
        )


def read_change(
    key: bytes | None,
    value: bytes,
    partition: Partition,
    offset: int,
    layouts: Layouts,
    *,
    infer: bool = False,
) -> Change | None:
    """Reads one message of a table topic, with its schema or without; None if the replica does not want its table.

    Raises UnknownShapeError if the event's shape has not been read yet (with ``infer``, when the schema topic has been
    read to its end, the latest shape must do), DataError, with the reason, if the message is no valid event.
    """
    if value.startswith(WITH_SCHEMA):
        key, value = plain_message(key, value)
    try:
        envelope = orjson.loads(value)
        source = envelope["source"]
        after = envelope["after"]
        transaction = envelope["transaction"]
        layout = layouts.known.get((source["schema"], source["table"], source["shape"]))
        lsn = source["lsn"]
        if (
            layout is not None
            and key is not None
            and tuple(orjson.loads(key)) == layout.key
            and type(lsn) is int
            and (envelope["op"] == "d" if after is None else envelope["op"] in _OPS_WITH_ROW)
            and (after is None or after.keys() == layout.names)
        ):
            image = None if after is None else _raw_image(value, after)
            identity = transaction
            if transaction is not None:
                identity = transaction["id"]
                if ":" in identity:
                    identity = identity.partition(":")[0]
            return _new(Change, (layout, key, image, lsn, identity, source["ts_ms"], partition, offset))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        pass  # looked at again below, slowly, for what is wrong
    return _read_carefully(key, value, partition, offset, layouts, infer)


class UnknownShapeError(DataError):
    """An event names a shape that the worker has not read yet."""


def _raw_image(value: bytes, after: dict[str, Any]) -> bytes:
    """The image's own bytes, cut out of a message that names its shape; made anew if it is not laid out as ours are.

    Were the bytes cut out wrongly, for an image that breaks the contract, they would be no JSON: nothing but an error
    can come of it.
    """
    if value.startswith(_BEFORE_IMAGE) and (end := value.find(_AFTER_IMAGE, _IMAGE_START)) > 0:
        return value[_IMAGE_START:end]
    return orjson.dumps(after)


def _read_carefully(
    key: bytes | None, value: bytes, partition: Partition, offset: int, layouts: Layouts, infer: bool
) -> Change | None:
    event = parse_change(key, value)
    if not layouts.wants(event.full_name):
        return None
    if event.op == "t":
        raise DataError(f"op 't' (truncate of {event.full_name}) cannot be applied by this version")
    after = None if event.op == "d" else event.after
    layout = layouts.find(event.full_name, event.shape_version)
    inferred = layout is None
    if layout is None:
        if not infer:
            raise UnknownShapeError(f"shape {event.shape_version!r} of table {event.full_name} is not known")
        layout = layouts.infer(event.full_name, event.shape_version, event.key if after is None else after)
    if set(event.key) != set(layout.key):
        raise DataError(
            f"the key's columns are {sorted(event.key)}, but the primary key of {layout.table} is {sorted(layout.key)}"
        )
    # What is inferred has no columns but the row's.
    if after is not None and not inferred and after.keys() != layout.names:
        missing, unknown = layout.names - after.keys(), after.keys() - layout.names
        raise DataError(
            f"the row of {layout.table} does not fit its shape: "
            + "; ".join(
                f"{what} {', '.join(sorted(names))}"
                for what, names in (("missing", missing), ("unknown", unknown))
                if names
            )
        )
    identity = None if event.transaction is None else event.transaction.partition(":")[0]
    image = None if after is None else orjson.dumps({name: after[name] for name in layout.columns})
    ordered_key = orjson.dumps({name: event.key[name] for name in layout.key})
    return Change(layout, ordered_key, image, event.lsn, identity, event.ts_ms, partition, offset)
