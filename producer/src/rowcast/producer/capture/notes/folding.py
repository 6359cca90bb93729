"""Fold the touches of a key into flags: whether the row existed before the transaction, and whether it may be gone.

The drain looks for each key. A row that a statement is known to have left in the table must be found, and is an error
otherwise. A row that may be gone is a delete if it is not found and existed before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias

from rowcast.producer.database.row_locks import Key


class Touch(StrEnum):
    """Say what a statement did to a key.

    The values are texts, because the hash of a text is faster than that of an Enum.
    """

    INSERT = "insert"
    UPDATE = "update"
    UPDATE_EQUAL = "update_equal"
    """The statement updated a row whose key the database takes for equal to this one, perhaps in another spelling.

    If a later statement deletes the row, another note has the key as it is stored.
    """
    DELETE = "delete"
    """The statement deleted the row or changed its key, or may have done so."""
    NAMED = "named"
    """The application names a row that did not exist, and that a statement may insert."""


Flags: TypeAlias = int

EXISTED = 1
"""The row existed before the transaction, or the key has been touched as if it did."""
LOCKED = 2
"""The row is known to be locked by this transaction."""
MAY_BE_GONE = 4
"""Nothing is known to have left the row in the table: a statement may have deleted it, or found no row."""
NEVER_FOUND = 8
"""Only statements that may have changed nothing have touched the key, so that the row may never have existed."""
EQUAL = 16
"""The row existed under a key that the database takes for equal. ``resolve_equal_keys`` removes the flag."""

FIRST_TOUCHES: Mapping[tuple[Touch, bool], Flags] = MappingProxyType({
    (Touch.INSERT, True): LOCKED,
    (Touch.INSERT, False): MAY_BE_GONE | NEVER_FOUND,
    (Touch.UPDATE, True): EXISTED | LOCKED,
    (Touch.UPDATE, False): EXISTED | MAY_BE_GONE | NEVER_FOUND,
    (Touch.UPDATE_EQUAL, True): EXISTED | LOCKED | EQUAL,
    (Touch.UPDATE_EQUAL, False): EXISTED | MAY_BE_GONE | NEVER_FOUND,
    (Touch.DELETE, True): EXISTED | LOCKED | MAY_BE_GONE,
    (Touch.DELETE, False): EXISTED | MAY_BE_GONE,
    (Touch.NAMED, False): MAY_BE_GONE,
})  # fmt: skip
"""The flags of a key after its first touch, by the touch and whether the row is locked."""


def fold_touches(found: dict[Key, Flags], keys: Iterable[Key], touch: Touch, *, locked: bool) -> None:
    """Add the touch of ``keys`` to the flags of earlier touches in ``found``."""
    first = FIRST_TOUCHES[touch, locked]
    if not found:
        found.update(dict.fromkeys(keys, first))
        return
    next_flags = _NEXT_FLAGS[touch, locked]
    for key in keys:
        flags = found.get(key)
        found[key] = first if flags is None else next_flags[flags]


def may_all_be_gone(tables: Iterable[dict[Key, Flags]]) -> None:
    """Flag all keys as perhaps gone."""
    for keys in tables:
        for key in keys:
            keys[key] = keys[key] & ~EQUAL | MAY_BE_GONE


def resolve_equal_keys(keys: dict[Key, Flags]) -> None:
    """Flag the equal keys of a table as perhaps gone if a row of the table may be gone, as it may be the same row."""
    flags_found = set(keys.values())
    if not any(flags & EQUAL for flags in flags_found):
        return
    gone = MAY_BE_GONE | NEVER_FOUND if any(flags & MAY_BE_GONE for flags in flags_found) else 0
    for key, flags in keys.items():
        if flags & EQUAL:
            keys[key] = flags & ~EQUAL | gone


def _next(flags: Flags, touch: Touch, locked: bool) -> Flags:
    if touch is Touch.UPDATE_EQUAL:
        # Another note has the stored key, if the row was changed by more than one statement.
        return flags | LOCKED if locked else flags
    if touch is not Touch.DELETE and not locked:
        # The statement may have changed nothing. Therefore nothing new is known.
        return flags
    if flags & (NEVER_FOUND | EQUAL):
        # An INSERT succeeds only without a row. A found row may have existed before an INSERT that failed.
        flags = flags & ~EXISTED if touch is Touch.INSERT else flags | EXISTED
        flags &= ~(NEVER_FOUND | EQUAL)
    flags = flags | MAY_BE_GONE if touch is Touch.DELETE else flags & ~MAY_BE_GONE
    return flags | LOCKED if locked else flags


_NEXT_FLAGS: Mapping[tuple[Touch, bool], tuple[Flags, ...]] = MappingProxyType({
    (touch, locked): tuple(_next(flags, touch, locked) for flags in range(2 * EQUAL))
    for touch, locked in FIRST_TOUCHES
})  # fmt: skip
"""The flags after a further touch, by the touch and whether the row is locked, for each flags before it."""
