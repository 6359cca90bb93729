"""Bound the bytes of an outbox row, because every engine limits the length of a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from sqlalchemy.engine import Connection

from rowcast.producer.capture.drain.missing_rows import Kind
from rowcast.producer.capture.drain.statements import DrainStatements
from rowcast.producer.database.dialects import CaptureDialect
from rowcast.producer.database.row_locks import BeforeImages, Key
from rowcast.producer.outbox.schema import KEYS_PER_ROW
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.errors import CaptureError

Run: TypeAlias = tuple[CapturedTable, Kind, list[Key]]
"""Keys of one table and of one kind."""

_MEASURE_FROM = 100
"""The number of keys from which on rows are measured. Fewer rows reach PostgreSQL's limit only with 10 MB each."""

MAX_BYTES = 150_000_000
"""The measured bytes of an outbox row. As JSON a byte takes up to six, and PostgreSQL's limit is 1 GB."""


def max_row_bytes() -> int:
    """Return the measured bytes of a row. An outbox row of rows that are not larger needs no other measure."""
    return MAX_BYTES // KEYS_PER_ROW


_MAX_BYTES_SENT = 4_000_000
"""The characters of before images sent with a statement. MariaDB and MySQL close the connection at a larger packet."""


class RowSizes:
    """Measure rows before their lines are joined, on engines where a failure would end the transaction."""

    def __init__(self, statements: DrainStatements, engine: CaptureDialect) -> None:
        self._statements = statements
        self._measures = engine.failure_ends_transaction

    def may_be_too_large(self, piece: Sequence[Run], before_images: Mapping[CapturedTable, BeforeImages]) -> bool:
        """Return whether the lines of short rows may be too long for one outbox row, because there are many keys."""
        if not self._measures or count_keys(piece) < _MEASURE_FROM:
            return False
        if before_images and _bytes_of(before_images, piece) > _MAX_BYTES_SENT:
            return False
        return any(self._statements.measure(table) is not None for table, _, _ in piece)

    def are_too_large(
        self,
        connection: Connection,
        piece: Sequence[Run],
        before_images: Mapping[CapturedTable, BeforeImages],
        *,
        is_half: bool,
    ) -> bool:
        """Return whether the lines of several keys may be too long for one outbox row.

        ``is_half``: the keys are one half of keys whose lines are too long.
        """
        count = count_keys(piece)
        if count == 1:
            return False
        if before_images and _bytes_of(before_images, piece) > _MAX_BYTES_SENT:
            return True
        is_measured = self._measures and (is_half or count >= _MEASURE_FROM)
        return is_measured and self._bytes(connection, piece) > MAX_BYTES

    def _bytes(self, connection: Connection, piece: Sequence[Run]) -> int:
        total = 0
        for table, _, keys in piece:
            query = self._statements.measure(table)
            if query is not None:
                parameters = {f"k0_{c}": [key[c] for key in keys] for c in range(len(table.key_columns))}
                [[size]] = query.fetch(connection, parameters)
                total += size or 0
        return total


def _bytes_of(before_images: Mapping[CapturedTable, BeforeImages], piece: Sequence[Run]) -> int:
    return sum(len(before_images.get(table, {}).get(key) or "") for table, _, keys in piece for key in keys)


def count_keys(piece: Sequence[Run]) -> int:
    """Return the number of keys."""
    return sum(len(keys) for _, _, keys in piece)


def cut(runs: Iterable[Run], limit: int) -> Iterator[list[Run]]:
    """Cut the runs into pieces of at most ``limit`` keys, for one statement each."""
    piece: list[Run] = []
    room = limit
    for table, kind, keys in runs:
        rest = iter(keys)
        while chunk := list(islice(rest, room)):
            piece.append((table, kind, chunk))
            room -= len(chunk)
            if room == 0:
                yield piece
                piece, room = [], limit
    if piece:
        yield piece


def too_long_error(piece: Sequence[Run]) -> CaptureError:
    """Return the error for rows whose lines are longer than the engine allows."""
    rows = ", ".join(_named(table, key) for table, _, keys in piece for key in keys[:10])
    are = "is" if count_keys(piece) == 1 else "are together"
    return CaptureError(
        f"{rows} {are} longer as JSON than the database can make a text: max_allowed_packet on MariaDB and MySQL, 1 GB "
        "on PostgreSQL and SQLite. Nothing is committed. Raise the limit, change fewer such rows in one transaction, "
        "or leave the column out with Column(info={'rowcast': False})."
    )


def _named(table: CapturedTable, key: Key) -> str:
    values = ", ".join(f"{c.name}={value!r}" for c, value in zip(table.key_columns, key, strict=True))
    return f"the row ({values}) of {table.full_name}"
