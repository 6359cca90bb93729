"""Write the noted changes into the outbox: a statement reads the changed rows again and stores the images.

A noted key of an existing row becomes a line of op ``c`` or ``u``, a key without a row a line of op ``d``. A row that
was inserted and deleted in the same transaction has no line. A key without a row is an error if no note says that the
row may be gone: see ``missing_rows``. A statement is compiled once for each combination of tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import combinations, islice
from typing import Any, NamedTuple

from sqlalchemy import exc
from sqlalchemy.engine import Connection, Dialect

from rowcast.producer.capture.drain.changed_schema import changed_schema_error
from rowcast.producer.capture.drain.missing_rows import (
    KIND_OF_FLAGS,
    KINDS,
    Kind,
    Missing,
    missing_row,
    missing_row_error,
)
from rowcast.producer.capture.drain.row_sizes import RowSizes, Run, count_keys, cut, max_row_bytes, too_long_error
from rowcast.producer.capture.drain.statements import MAX_CACHED_STATEMENTS, DrainStatements, Found, Group
from rowcast.producer.capture.notes.folding import EQUAL, EXISTED, FIRST_TOUCHES, LOCKED, Flags
from rowcast.producer.capture.notes.row_security import hidden_rows_error
from rowcast.producer.capture.notes.transaction_notes import Folded, Note
from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.precompiled import PrecompiledStatement
from rowcast.producer.database.row_locks import BeforeImages, Key, lock_rows
from rowcast.producer.outbox.schema import KEYS_PER_ROW, OutboxTables
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.database.schema_names import default_schema

MAX_KEYS_WITHOUT_ARRAYS = 32
"""The number of keys in one outbox row on engines without array parameters, where each key enlarges the statement."""

FAST_PATH_MAX_NOTES = 8
"""The number of notes that the fast path takes. Its statement is found without folding the notes."""


class _Written(Enum):
    """Say whether a statement has written an outbox row."""

    YES = "yes"
    NO = "no"
    TOO_LONG = "too long"


class _Row(NamedTuple):
    """Hold the common values of a transaction's outbox rows. ``transaction_id``: None if the database knows the id."""

    before_images: Mapping[CapturedTable, BeforeImages]
    transaction_id: str | None
    context: str | None


class _Layout(NamedTuple):
    """Say how the keys of a few notes fill the parameters of a statement.

    Each note has one key. A table has at most one note of each kind.
    """

    groups: tuple[Group, ...]

    statement: PrecompiledStatement
    parameters: Sequence[tuple[str, int, int]]
    """For each parameter: its name, the note, and the column of the note's key."""
    must_differ: Sequence[tuple[int, int]]
    """Pairs of notes of the same table. If their keys are the same, the notes must be folded."""


class OutboxWriter:
    """Write the changes of an engine's transactions into the outbox.

    ``write_fast`` takes the few rows of the usual transaction, ``write_full`` takes every transaction. Both run inside
    the application's transaction, while the transaction holds the locks of all changed rows. Common parameters:
    ``transaction_id``: return an id for the transaction, used if the database does not know an id. ``context``: the
    JSON of ``TransactionContext``. ``last``: nothing of the transaction comes after this. ``commit``: COMMIT comes
    next, and may be sent along.
    """

    def __init__(self, outbox: OutboxTables, dialect: Dialect) -> None:
        self._statements = DrainStatements(outbox.outbox, dialect)
        self._layouts: dict[tuple[Any, ...], _Layout | None] = {}
        engine = capture_dialect(dialect)
        self._engine = engine
        self._sizes = RowSizes(self._statements, engine)
        self._has_arrays = engine.array_parameters
        self._knows_transaction_id = engine.transaction_id is not None
        self._has_row_locks = engine.has_row_locks

    # -- the fast path

    def write_fast(
        self, connection: Connection, notes: Sequence[Note], transaction_id: Callable[[], str], context: str | None,
        *, last: bool, commit: bool,
    ) -> bool:  # fmt: skip
        """Write at most FAST_PATH_MAX_NOTES notes of a single key, as ``write_full`` does, but without folding.

        Return False without writing if the notes do not qualify.
        """
        if len(notes) > FAST_PATH_MAX_NOTES:
            return False
        shape: list[Any] = [context is not None]
        keys = []
        for table, touch, noted, locked in notes:
            if len(noted) != 1 or not (locked or self._may_stay_unlocked(table)):
                return False
            shape += table, touch, locked
            keys.append(noted[0])
        signature = tuple(shape)
        try:
            layout = self._layouts[signature]
        except KeyError:
            layout = self._make_layout(signature)
        if layout is None:
            return False
        groups, statement, places, must_differ = layout
        for one, other in must_differ:
            if keys[one] == keys[other]:
                return False
        parameters: dict[str, Any] = {name: keys[note][column] for name, note, column in places}
        _set_row_parameters(
            parameters, None if self._knows_transaction_id else transaction_id(), context, True if last else None
        )
        written = self._insert(connection, statement, parameters, commit=commit)
        if written is not _Written.YES:
            of_groups = iter([keys[note][column] for _, note, column in places])
            piece = [
                (group.table, group.kind, [tuple(islice(of_groups, len(group.table.key_columns)))]) for group in groups
            ]
            row = _Row({}, parameters.get("rowcast_tx"), context)
            self._write_in_parts(connection, piece, row, written, last=last)
        return True

    def _make_layout(self, signature: tuple[Any, ...]) -> _Layout | None:
        flags = [FIRST_TOUCHES[touch] for touch in zip(signature[2::3], signature[3::3], strict=True)]
        pairs = [(table, KIND_OF_FLAGS[one]) for table, one in zip(signature[1::3], flags, strict=True)]
        if len(self._layouts) > MAX_CACHED_STATEMENTS:
            self._layouts.clear()
        gone = {table for table, kind in pairs if kind.missing is not Missing.REFUSED}
        # An equal key may be another name of a row that may be gone.
        folds = any(one & EQUAL and table in gone for (table, _), one in zip(pairs, flags, strict=True))
        self._layouts[signature] = layout = None if folds else self._layout_of(signature[0], pairs)
        return layout

    def _layout_of(self, with_context: bool, pairs: Sequence[tuple[CapturedTable, Kind]]) -> _Layout | None:
        """Lay out notes, given as pairs of a table and the kind of the note's key.

        Return None if the notes must fold.
        """
        tables = {table for table, _ in pairs}
        if len(set(pairs)) < len(pairs) or len({table.full_name for table in tables}) < len(tables):
            return None
        # The order is the same as in _runs.
        order = [(table, kind) for table in dict.fromkeys(table for table, _ in pairs) for kind in KINDS]
        groups = tuple(Group(table, kind, 1) for table, kind in order if (table, kind) in pairs)
        if any(group.with_before_images for group in groups):
            return None
        notes = [pairs.index((group.table, group.kind)) for group in groups]
        parameters = [
            (name, notes[g], c)
            for g, group in enumerate(groups)
            for c, name in enumerate(group.names_of_parameters(g, 0))
        ]
        must_differ = [(i, j) for i, j in combinations(range(len(pairs)), 2) if pairs[i][0] is pairs[j][0]]
        statement = self._statements.for_groups(groups, with_context=with_context)
        return _Layout(groups, statement, parameters, must_differ)

    # -- the full path

    def write_full(
        self, connection: Connection, folded: Folded, before_images: Mapping[CapturedTable, BeforeImages],
        transaction_id: Callable[[], str], context: str | None, *, last: bool, commit: bool,
    ) -> None:  # fmt: skip
        """Write any number of folded keys, in as many outbox rows as needed.

        ``before_images``: see ``TransactionNotes.before_images``.
        """
        folded = {
            table: keys if self._may_stay_unlocked(table) else self._lock_missing(connection, table, keys)
            for table, keys in folded.items()
        }
        pieces = list(cut(_runs(folded), KEYS_PER_ROW if self._has_arrays else MAX_KEYS_WITHOUT_ARRAYS))
        row = _Row(before_images, None if self._knows_transaction_id else transaction_id(), context)
        for i, piece in enumerate(pieces):
            # Only the last row is marked as the last, because the relay looks for more after an unmarked row.
            is_last = i == len(pieces) - 1
            self._write_piece(connection, piece, row, last=last and is_last, commit=commit and is_last)

    def _write_piece(
        self, connection: Connection, piece: Sequence[Run], row: _Row,
        *, last: bool, commit: bool = False, is_half: bool = False,
    ) -> None:  # fmt: skip
        """Write an outbox row, or several if one would be too long."""
        are_many = not is_half and self._sizes.may_be_too_large(piece, row.before_images)
        if are_many and self._write_short_rows(connection, piece, row, last=last):
            return
        if self._sizes.are_too_large(connection, piece, row.before_images, is_half=is_half):
            self._write_halves(connection, piece, row, last=last)
            return
        groups, parameters = self._fill(piece, row.before_images)
        statement = self._statements.for_groups(groups, with_context=row.context is not None)
        _set_row_parameters(parameters, row.transaction_id, row.context, True if last else None)
        written = self._insert(connection, statement, parameters, commit=commit)
        if written is not _Written.YES:
            self._write_in_parts(connection, piece, row, written, last=last)

    def _write_short_rows(self, connection: Connection, piece: Sequence[Run], row: _Row, *, last: bool) -> bool:
        """Write an outbox row if every row is short. Return False if nothing was written.

        COMMIT is never sent along, because only the answer says whether the outbox row was written.
        """
        groups, parameters = self._fill(piece, row.before_images, single_keys_as_arrays=True)
        statement = self._statements.for_groups(
            groups, with_context=row.context is not None, max_row_bytes=max_row_bytes()
        )
        _set_row_parameters(parameters, row.transaction_id, row.context, True if last else None)
        return self._insert(connection, statement, parameters, commit=False, returns_row=True) is _Written.YES

    def _write_in_parts(
        self, connection: Connection, piece: Sequence[Run], row: _Row, written: _Written, *, last: bool
    ) -> None:
        """Find out why no outbox row was written. Write several rows if one would be too long.

        Raises CaptureError for a missing row, and for a row that alone is too long.
        """
        if written is _Written.TOO_LONG or self._is_too_long(connection, piece, row):
            if self._engine.failure_ends_transaction or count_keys(piece) == 1:
                raise too_long_error(piece)
            self._write_halves(connection, piece, row, last=last)

    def _write_halves(self, connection: Connection, piece: Sequence[Run], row: _Row, *, last: bool) -> None:
        first, second = cut(piece, (count_keys(piece) + 1) // 2)
        self._write_piece(connection, first, row, last=False, is_half=True)
        self._write_piece(connection, second, row, last=last, is_half=True)

    def _may_stay_unlocked(self, table: CapturedTable) -> bool:
        """Return whether the keys are noted as they are stored, and no other writer exists."""
        return not self._has_row_locks and table.stored_keys.columns is table.key_columns

    def _lock_missing(
        self, connection: Connection, table: CapturedTable, keys: Mapping[Key, Flags]
    ) -> Mapping[Key, Flags]:
        """Lock the rows whose locks are not known to be held.

        Leave out keys without a row, because the transaction would hold the lock of a row that it changed. Raises
        CaptureError if the row may be hidden.
        """
        if all(flags & LOCKED for flags in set(keys.values())):
            return keys
        locked = {key: flags for key, flags in keys.items() if flags & LOCKED}
        sought = found = 0
        for existed in (EXISTED, 0):
            missing = [key for key, flags in keys.items() if flags & (LOCKED | EXISTED) == existed]
            sought += len(missing)
            for key in lock_rows(connection, table.key_columns, table.stored_keys.columns, missing):
                # The stored key may differ from the noted key: another case, or more digits.
                locked.setdefault(key, existed | LOCKED)
                found += 1
        if found < sought and self._engine.hides_rows(connection, table.table):
            raise hidden_rows_error(table.full_name, "changed rows")
        return locked

    def _fill(
        self,
        piece: Sequence[Run],
        before_images: Mapping[CapturedTable, BeforeImages],
        *,
        single_keys_as_arrays: bool = False,
    ) -> tuple[tuple[Group, ...], dict[str, Any]]:
        """Return the groups of the piece, and the parameters of the keys."""
        groups = []
        parameters: dict[str, Any] = {}
        for g, (table, kind, keys) in enumerate(piece):
            as_array = self._has_arrays and (single_keys_as_arrays or len(keys) > 1)
            group = Group(table, kind, 0 if as_array else len(keys))
            groups.append(group)
            if group.with_before_images:
                known = before_images.get(table, {})
                images = [known.get(key, "") for key in keys]
                parameters |= {f"b{g}": images} if as_array else {f"b{g}_{n}": image for n, image in enumerate(images)}
            for c in range(len(table.key_columns)):
                if as_array:
                    parameters[f"k{g}_{c}"] = [key[c] for key in keys]
                else:
                    for n, key in enumerate(keys):
                        parameters[f"k{g}_{c}_{n}"] = key[c]
        return tuple(groups), parameters

    # -- rows that must exist, and rows that are too long

    def _insert(
        self, connection: Connection, statement: PrecompiledStatement, parameters: dict[str, Any],
        *, commit: bool, returns_row: bool = False,
    ) -> _Written:  # fmt: skip
        """Write an outbox row, and say whether it was written.

        ``returns_row``: the statement returns a row if it has written the outbox row. Raises CaptureError if the
        database reports a missing row.
        """
        try:
            if returns_row:
                return _Written.YES if statement.fetch(connection, parameters) else _Written.NO
            rows = statement.execute(connection, parameters, commit=commit)
        except exc.DBAPIError as error:
            if self._engine.is_too_long(error):
                return _Written.TOO_LONG
            self._refuse_changed_schema(connection, error)
            missing = self._engine.missing_row(error)
            if missing is None:
                raise
            raise missing_row_error(missing) from error
        return _Written.YES if rows == 1 or self._engine.raises_for_missing_rows else _Written.NO

    def _is_too_long(self, connection: Connection, piece: Sequence[Run], row: _Row) -> bool:
        """Return whether the lines are too long together.

        Raises CaptureError for a row that must exist and does not, and for a row that is too long by itself.
        """
        self._refuse_changed_schema(connection, None)
        groups, parameters = self._fill(piece, row.before_images)
        [found] = self._statements.search(groups).fetch(connection, parameters)
        keys = [(table, kind, key) for table, kind, keys in piece for key in keys]
        has_line = False
        for what, (table, kind, key) in zip(found, keys, strict=True):
            if what == Found.TOO_LONG:
                raise too_long_error([(table, kind, [key])])
            if what == Found.NO_ROW and kind.missing is Missing.REFUSED:
                raise missing_row_error(missing_row(table, key))
            has_line |= what == Found.LINE or (what == Found.NO_ROW and kind.missing is Missing.DELETE)
        return has_line

    def _refuse_changed_schema(self, connection: Connection, error: exc.DBAPIError | None) -> None:
        """Raise CaptureError if the connection does not look for tables in the default schema any more."""
        where = self._engine.changed_schema(connection, error)
        if where is not None:
            raise changed_schema_error(where, default_schema(connection.dialect)) from error


def _set_row_parameters(
    parameters: dict[str, Any], transaction_id: str | None, context: str | None, complete: bool | None
) -> None:
    """Add the parameters of the outbox row to the parameters of the keys."""
    parameters["rowcast_complete"] = complete
    if transaction_id is not None:
        parameters["rowcast_tx"] = transaction_id
    if context is not None:
        parameters["rowcast_context"] = context


def _runs(folded: Folded) -> Iterator[Run]:
    """Split the keys of each table by their kind."""
    for table, keys in folded.items():
        found = set(keys.values())
        for kind in KINDS:
            of_kind = {flags for flags in found if KIND_OF_FLAGS[flags] == kind}
            if of_kind:
                same = of_kind == found
                yield table, kind, list(keys) if same else [key for key, flags in keys.items() if flags in of_kind]
