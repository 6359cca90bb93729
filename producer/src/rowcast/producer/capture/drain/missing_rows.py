"""Decide the meaning of a key without a row at commit, and refuse the commit if the row must exist.

The row of a missing key was deleted only if a note says so. Otherwise something unknown to the capture hides the row or
removed the row, and a delete event could be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from rowcast.producer.capture.notes.folding import EQUAL, EXISTED, MAY_BE_GONE, NEVER_FOUND, Flags
from rowcast.producer.capture.notes.row_security import hidden_rows_error
from rowcast.producer.database.dialects.base import MissingRow
from rowcast.shared.errors import CaptureError


class Missing(StrEnum):
    """Say what a key without a row means."""

    DELETE = "delete"
    """The row was deleted."""
    REFUSED = "refused"
    """The row must exist. The transaction must not be committed."""
    NOTHING = "nothing"
    """There is nothing to publish, because the row did not exist before the transaction."""


class Kind(NamedTuple):
    """Say what is known of a key.

    ``existed``: the row existed before the transaction. ``missing``: the meaning of a key without a row.
    """

    existed: bool
    missing: Missing


KINDS: Sequence[Kind] = (
    Kind(True, Missing.REFUSED),
    Kind(True, Missing.DELETE),
    Kind(True, Missing.NOTHING),
    Kind(False, Missing.REFUSED),
    Kind(False, Missing.NOTHING),
)
"""All kinds in the order of their lines. Rows that existed come first: a changed key is a delete, then a create."""


def _kind(flags: Flags) -> Kind:
    existed = bool(flags & EXISTED)
    if not flags & MAY_BE_GONE:
        return Kind(existed, Missing.REFUSED)
    was_there = existed and not flags & NEVER_FOUND
    return Kind(existed, Missing.DELETE if was_there else Missing.NOTHING)


KIND_OF_FLAGS: Sequence[Kind] = tuple(map(_kind, range(2 * EQUAL)))
"""The kind of a key, by its flags."""


def missing_row_error(missing: MissingRow) -> CaptureError:
    """Return the error for a row that must exist and is not found."""
    key = ", ".join(f"{name}={value!r}" for name, value in missing.key.items())
    if missing.hidden:
        return hidden_rows_error(missing.table, f"the row ({key})")
    return CaptureError(
        f"a statement of this transaction changed the row ({key}) of {missing.table}, but the row is not found at the "
        "commit, and no captured statement has deleted it or changed its key. Nothing is committed, because a delete "
        "event could be wrong. A trigger, a rule, a function, or a foreign key action that the metadata does not "
        "declare may have removed the row or changed its key, or the database stores the key in another form. Name "
        "such rows with execution_options(rowcast={table: [key, …]}) at the statement, declare the foreign key's "
        f"action, or let triggers capture the table: rowcast triggers install {missing.table}"
    )


def missing_row(table: Any, key: Sequence[Any]) -> MissingRow:
    """Return the missing row of a captured table."""
    names: Mapping[str, Any] = {str(c.name): v for c, v in zip(table.key_columns, key, strict=True)}
    return MissingRow(table.full_name, names, hidden=False)
