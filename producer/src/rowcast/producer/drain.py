"""The drain: at commit, one statement re-reads the touched keys and writes their images into the outbox.

It is compiled once for each combination of tables. A row that is there becomes ``c`` or ``u``, a row that is gone
``d``; one that came and went within the transaction leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection, Dialect

from rowcast.producer.drain_statements import MOST_STATEMENTS, DrainStatements, Group
from rowcast.producer.locked_reads import lock_named
from rowcast.producer.outbox import OutboxTables
from rowcast.producer.ready_statements import ReadyStatement
from rowcast.producer.tables import CapturedTable
from rowcast.producer.touched import EXISTED, LOCKED, Folded, Key, Note, OldRows, Touch

KEYS_PER_ROW = 2_000
"""An outbox row holds at most this many changes; a larger transaction takes several."""

SINGLES = 32
"""The same where the engine has no arrays, and each key is a part of the statement of its own."""

FEW = 8
"""Notes of a transaction whose statement is found without folding them."""


class _Arrangement(NamedTuple):
    """How a few notes of one key each, no two of the same table and op, fill a statement's parameters."""

    compiled: ReadyStatement
    places: Sequence[tuple[str, int, int]]
    """Of each parameter: its name, the note, and the column of the note's key."""
    apart: Sequence[tuple[int, int]]
    """Notes of the same table: if their key is the same, they must be folded."""


class Drain:
    """Writes transactions' changes into the outbox of one engine."""

    def __init__(self, outbox: OutboxTables, dialect: Dialect) -> None:
        self._statements = DrainStatements(outbox.outbox, dialect)
        self._arrangements: dict[tuple[Any, ...], _Arrangement | None] = {}
        # One parameter for any number of keys where the engine has arrays.
        self._has_arrays = dialect.name == "postgresql"
        self._own_transaction_id = dialect.name == "postgresql"
        self._row_locks = dialect.name != "sqlite"

    def write_few(
        self, connection: Connection, notes: Sequence[Note], transaction: Callable[[], str], context: str | None,
        *, last: bool, commit: bool,
    ) -> bool:  # fmt: skip
        """What ``write`` does, without folding, for the few rows of the usual transaction; False, and nothing is done,
        if it is none."""
        if len(notes) > FEW:
            return False
        shape: list[Any] = [context is not None]
        keys = []
        for table, touch, own, locked in notes:
            if len(own) != 1 or not (locked or not self._row_locks):
                return False
            shape += table, touch is Touch.INSERT
            keys.append(own[0])
        signature = tuple(shape)
        try:
            arrangement = self._arrangements[signature]
        except KeyError:
            arrangement = self._arrange(signature)
        if arrangement is None:
            return False
        compiled, places, apart = arrangement
        for one, other in apart:
            if keys[one] == keys[other]:
                return False
        parameters: dict[str, Any] = {name: keys[note][column] for name, note, column in places}
        self._say(parameters, None if self._own_transaction_id else transaction(), context, True if last else None)
        compiled.execute(connection, parameters, commit=commit)
        return True

    def _arrange(self, signature: tuple[Any, ...]) -> _Arrangement | None:
        with_context, pairs = signature[0], list(zip(signature[1::2], signature[2::2], strict=True))
        if len(self._arrangements) > MOST_STATEMENTS:
            self._arrangements.clear()
        self._arrangements[signature] = arrangement = self._arranged(with_context, pairs)
        return arrangement

    def _arranged(self, with_context: bool, pairs: Sequence[tuple[CapturedTable, bool]]) -> _Arrangement | None:
        if len(set(pairs)) < len(pairs):
            return None
        # In the order of _runs.
        order = [pair for table, _ in pairs for pair in ((table, False), (table, True)) if pair in pairs]
        groups = [Group(table, not new, 1) for table, new in dict.fromkeys(order)]
        if any(group.with_old_rows for group in groups):
            return None
        notes = [pairs.index((group.table, not group.existed)) for group in groups]
        places = [
            (f"k{g}_{c}_0", notes[g], c) for g, group in enumerate(groups) for c in range(len(group.table.key_columns))
        ]
        apart = [(i, j) for i, j in combinations(range(len(pairs)), 2) if pairs[i][0] is pairs[j][0]]
        return _Arrangement(self._statements.of(tuple(groups), with_context=with_context), places, apart)

    def write(
        self, connection: Connection, touched: Folded, old_rows: Mapping[CapturedTable, OldRows],
        transaction: Callable[[], str], context: str | None, *, last: bool, commit: bool,
    ) -> None:  # fmt: skip
        """Runs inside the application's transaction, while it holds the locks of all that it changed.

        ``old_rows``: see ``Touched``; ``transaction`` names it where the database does not; ``context``: see
        ``TransactionContext``; ``last``: nothing of it comes after this;
        ``commit``: nothing at all comes before COMMIT, which may be sent along.
        """
        if self._row_locks:
            touched = {table: self._locked(connection, table, keys) for table, keys in touched.items()}
        pieces = list(_pieces(self._runs(touched), KEYS_PER_ROW if self._has_arrays else SINGLES))
        name = None if self._own_transaction_id else transaction()
        for i, piece in enumerate(pieces):
            # Only the last row can say that it is the last: the relay looks for more behind any other.
            end = i == len(pieces) - 1
            self._write_piece(
                connection, piece, old_rows, name, context, True if last and end else None, commit=commit and end
            )

    def _runs(self, touched: Folded) -> Iterator[tuple[CapturedTable, bool, list[Key]]]:
        for table, keys in touched.items():
            kinds = {flags & EXISTED for flags in set(keys.values())}
            # Old rows first: a changed key is a delete, then a create.
            for existed in (EXISTED, 0):
                if kinds == {existed}:
                    yield table, bool(existed), list(keys)
                elif existed in kinds:
                    yield table, bool(existed), [key for key, flags in keys.items() if flags & EXISTED == existed]

    def _locked(self, connection: Connection, table: CapturedTable, keys: Mapping[Key, int]) -> Mapping[Key, int]:
        """Takes the missing locks. What is not there to be locked was not changed by this transaction."""
        if all(flags & LOCKED for flags in set(keys.values())):
            return keys
        locked = {key: flags for key, flags in keys.items() if flags & LOCKED}
        for existed in (EXISTED, 0):
            missing = [key for key, flags in keys.items() if flags == existed]
            for key in lock_named(connection, table.key_columns, missing):
                # As it is stored, which may not be as the application wrote it: another case, more digits.
                locked.setdefault(key, existed | LOCKED)
        return locked

    def _write_piece(
        self, connection: Connection, piece: Sequence[tuple[CapturedTable, bool, list[Key]]],
        old_rows: Mapping[CapturedTable, OldRows], transaction: str | None, context: str | None, complete: bool | None,
        *, commit: bool,
    ) -> None:  # fmt: skip
        groups = []
        parameters: dict[str, Any] = {}
        self._say(parameters, transaction, context, complete)
        for g, (table, existed, keys) in enumerate(piece):
            many = self._has_arrays and len(keys) > 1
            group = Group(table, existed, 0 if many else len(keys))
            groups.append(group)
            if group.with_old_rows:
                known = old_rows.get(table, {})
                members = [known.get(key, "") for key in keys]
                parameters |= {f"b{g}": members} if many else {f"b{g}_{n}": text for n, text in enumerate(members)}
            for c in range(len(table.key_columns)):
                if many:
                    parameters[f"k{g}_{c}"] = [key[c] for key in keys]
                else:
                    for n, key in enumerate(keys):
                        parameters[f"k{g}_{c}_{n}"] = key[c]
        self._statements.of(tuple(groups), with_context=context is not None).execute(
            connection, parameters, commit=commit
        )

    def _say(
        self, parameters: dict[str, Any], transaction: str | None, context: str | None, complete: bool | None
    ) -> None:
        """The parameters of every outbox row."""
        parameters["rowcast_complete"] = complete
        if transaction is not None:
            parameters["rowcast_tx"] = transaction
        if context is not None:
            parameters["rowcast_context"] = context


def _pieces(
    runs: Iterable[tuple[CapturedTable, bool, list[Key]]], limit: int
) -> Iterator[list[tuple[CapturedTable, bool, list[Key]]]]:
    """Cuts the runs into what one statement takes: at most ``limit`` keys."""
    piece: list[tuple[CapturedTable, bool, list[Key]]] = []
    room = limit
    for table, existed, keys in runs:
        rest = iter(keys)
        while chunk := list(islice(rest, room)):
            piece.append((table, existed, chunk))
            room -= len(chunk)
            if room == 0:
                yield piece
                piece, room = [], limit
    if piece:
        yield piece
