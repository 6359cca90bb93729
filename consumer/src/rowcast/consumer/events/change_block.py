"""Read a block of messages at once, as the fast path of ``read_change``.

Every check of ``read_change`` is made for all messages together, column by column. The loops run in C, so a message
costs about a third of the bytecodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress, repeat
from operator import getitem, is_not, itemgetter, le, methodcaller
from typing import Any

import orjson

from rowcast.consumer.events.change import (
    AFTER_IMAGE,
    BEFORE_IMAGE,
    IMAGE_START,
    MAX_NUMBER,
    OPS_WITH_ROW,
    Change,
    image_bytes,
)
from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.row_layout import RowLayout, RowLayouts

_key_of, _value_of, _offset_of = methodcaller("key"), methodcaller("value"), methodcaller("offset")
_members_of = itemgetter("source", "after", "transaction", "op")
_source_members_of = itemgetter("schema", "table", "shape", "lsn", "ts_ms")
_id_of, _first_of = itemgetter("id"), itemgetter(0)

_OPS = frozenset((*((op, dict) for op in OPS_WITH_ROW), ("d", type(None))))
"""The operations, with the type of the row image."""


def read_block(messages: Sequence[Any], partition: Partition, layouts: RowLayouts) -> list[Change] | None:
    """Return the changes of messages with values. Return None if ``read_change`` must read each message.

    The block must be of one layout, as the relay writes it. ``read_change`` finds the fault of any other message.
    """
    try:
        return _read(messages, partition, layouts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _read(messages: Sequence[Any], partition: Partition, layouts: RowLayouts) -> list[Change] | None:
    values, keys = list(map(_value_of, messages)), list(map(_key_of, messages))
    sources, afters, transactions, ops = zip(*map(_members_of, map(orjson.loads, values)), strict=True)
    *names, lsns, times = zip(*map(_source_members_of, sources), strict=True)
    layout = _only_layout(names, layouts)
    if (
        layout is None
        or not _are_numbers(lsns)
        or set(map(type, times)) != {int}
        or not _OPS.issuperset(zip(ops, map(type, afters), strict=True))
        or not _fit(layout, list(map(orjson.loads, keys)), afters)
    ):
        return None
    images, identities = _images(values, afters), _identities(transactions)
    columns = (repeat(layout), keys, images, lsns, identities, times, repeat(partition), map(_offset_of, messages))
    # The constructor of the named tuple is written in Python.
    return list(map(tuple.__new__, repeat(Change), zip(*columns, strict=False)))


def _only_layout(names: Sequence[Sequence[Any]], layouts: RowLayouts) -> RowLayout | None:
    """Return the layout of all messages, or None. ``names``: the schemas, tables and shapes."""
    shapes = set(zip(*names, strict=True))
    return layouts.by_event_shape.get(shapes.pop()) if len(shapes) == 1 else None


def _are_numbers(lsns: Sequence[Any]) -> bool:
    return set(map(type, lsns)) == {int} and min(lsns) >= 0 and max(lsns) <= MAX_NUMBER


def _fit(layout: RowLayout, keys: Sequence[Any], afters: Sequence[Mapping[str, Any] | None]) -> bool:
    """Return whether keys and rows have the columns and types of the layout, and each row has the key."""
    if not _have_columns(keys, layout.key) or not _have_types(keys, layout.key_types):
        return False
    has_row = list(map(is_not, afters, repeat(None)))
    rows: list[Any] = list(compress(afters, has_row))
    if not rows:
        return True
    # Databases write the columns in one order.
    order = tuple(rows[0])
    return (
        layout.names == set(order)
        and _have_columns(rows, order)
        and _have_types(rows, [layout.row_types[name] for name in order])
        and all(map(le, map(dict.items, compress(keys, has_row)), map(dict.items, rows)))
    )


def _have_columns(rows: Sequence[Any], names: tuple[str, ...]) -> bool:
    return set(map(type, rows)) == {dict} and set(map(tuple, rows)) == {names}


def _have_types(rows: Sequence[dict[str, Any]], types: Sequence[frozenset[type]]) -> bool:
    columns = zip(*map(dict.values, rows), strict=True)
    return all(allowed.issuperset(map(type, values)) for allowed, values in zip(types, columns, strict=True))


def _images(values: Sequence[bytes], afters: Sequence[Any]) -> Sequence[bytes | None]:
    """Return the images, and None for deletes. Raise ValueError if an envelope has another layout after the image."""
    if not all(map(bytes.startswith, values, repeat(BEFORE_IMAGE))):
        # The events carry old row images.
        return [after and image_bytes(value, after) for value, after in zip(values, afters, strict=True)]
    ends = map(bytes.index, values, repeat(AFTER_IMAGE), repeat(IMAGE_START))
    images: list[Any] = list(map(getitem, values, map(slice, repeat(IMAGE_START), ends)))
    if None in afters:
        return [after and image for image, after in zip(images, afters, strict=True)]
    return images


def _identities(transactions: Sequence[Any]) -> Sequence[str | None]:
    """Return the ids up to the colon. Raise TypeError if only some events have a transaction."""
    if transactions.count(None) == len(transactions):
        return transactions
    return list(map(_first_of, map(str.partition, map(_id_of, transactions), repeat(":"))))
