"""Divide the rows of a table by key, so that few numbers show where two databases differ.

A row belongs to the same bucket on both sides, in any order that the engines give the keys. A bucket holds the number
of rows and the sum of the row hashes. Therefore the sides may be read in different orders, and in pages of any size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from rowcast.consumer.verification.compared_table import ComparedTable
from rowcast.consumer.verification.row_forms import CanonicalKey, RowForms
from rowcast.shared.tables.shape import INTEGER_TYPES

_MAX_BUCKETS = 2**15
_LEAST_WIDTH = 64
_HASH_BUCKETS = 2**12
_RANGES_PER_CONDITION = 100
_INT64 = (-(2**63), 2**63 - 1)
_UINT64 = (0, 2**64 - 1)

_ROW = 1 << 100
"""The share of the number of rows in a sum. The sum of the hashes stays below its half."""


class Tally:
    """The number of rows and the sum of their hashes in each bucket."""

    def __init__(self) -> None:
        self._sums: dict[int, int] = {}
        self.rows = 0

    def add(self, bucket: int, rows: int, hashes: int) -> None:
        """Add rows to a bucket. ``hashes``: the sum of their hashes."""
        self._sums[bucket] = self._sums.get(bucket, 0) + rows * _ROW + hashes
        self.rows += rows

    def differing(self, other: Tally) -> dict[int, int]:
        """Return the buckets that differ, in ascending order, with the greater number of rows of both sides."""
        ours, theirs = self._sums, other._sums
        found = [bucket for bucket in ours.keys() | theirs.keys() if ours.get(bucket) != theirs.get(bucket)]
        return {b: max(_row_count(ours.get(b, 0)), _row_count(theirs.get(b, 0))) for b in sorted(found)}


def _row_count(sum_: int) -> int:
    return (sum_ + _ROW // 2) // _ROW


class Buckets(ABC):
    """The rule that gives each key a bucket."""

    @abstractmethod
    def expression(self, table: ComparedTable) -> ColumnElement[int]:
        """Return the bucket of a row, as SQL."""

    @abstractmethod
    def of_key(self, key: CanonicalKey) -> int:
        """Return the bucket of a key."""

    def conditions(self, table: ComparedTable, buckets: Sequence[int]) -> Iterator[ColumnElement[bool]] | None:
        """Return conditions that find all rows of the buckets by an index, or None if no index finds the rows."""
        return None


class IntegerBuckets(Buckets):
    """Buckets of neighbouring keys, for a primary key of a single integer. Changes are often close to each other."""

    def __init__(self, column: str, smallest: int, greatest: int, *, unsigned: bool) -> None:
        self._column = column
        self._width = max(_LEAST_WIDTH, (greatest - smallest + 1) // _MAX_BUCKETS)
        self._limits = _UINT64 if unsigned else _INT64

    def expression(self, table: ComparedTable) -> ColumnElement[int]:
        """Return the quotient of the key and the width."""
        return table.database.sql.divided(table.key_column(self._column), self._width)

    def of_key(self, key: CanonicalKey) -> int:
        """Return the bucket of a key. SQLite may hold a text in a column of integers."""
        value = key[0]
        return value // self._width if type(value) is int else hash(value)

    def conditions(self, table: ComparedTable, buckets: Sequence[int]) -> Iterator[ColumnElement[bool]]:
        """Return conditions over ranges of keys."""
        ranges: list[list[int]] = []
        for bucket in buckets:
            # Engines round a negative quotient up, and Python rounds it down. The range has both.
            low, high = (bucket - 1) * self._width + 1, (bucket + 1) * self._width - 1
            if ranges and low <= ranges[-1][1] + 1:
                ranges[-1][1] = high
            else:
                ranges.append([low, high])
        column, (least, most) = table.key_column(self._column), self._limits
        for start in range(0, len(ranges), _RANGES_PER_CONDITION):
            yield sa.or_(
                *(
                    column.between(sa.literal_column(str(max(low, least))), sa.literal_column(str(min(high, most))))
                    for low, high in ranges[start : start + _RANGES_PER_CONDITION]
                )
            )


class HashBuckets(Buckets):
    """Buckets by the hash of the key, for every other primary key."""

    def __init__(self, forms: RowForms) -> None:
        self._forms = forms

    def expression(self, table: ComparedTable) -> ColumnElement[int]:
        """Return the lowest bits of a hash of the key's columns."""
        sql = table.database.sql
        columns = {name: table.key_column(name) for name in table.shape.primary_key}
        integers = [c for name, c in columns.items() if table.shape.column(name).type.name in INTEGER_TYPES]
        return sql.lowest_bits(sql.key_hash(list(columns.values()), integers), _HASH_BUCKETS - 1)

    def of_key(self, key: CanonicalKey) -> int:
        """Return the lowest bits of the hash of the canonical key."""
        return self._forms.hash_key(key) & (_HASH_BUCKETS - 1)


def buckets_for(primary: ComparedTable, forms: RowForms) -> Buckets:
    """Return the buckets that suit the primary key of the table."""
    key = primary.shape.primary_key
    type_ = primary.shape.column(key[0]).type.name
    if len(key) == 1 and type_ in INTEGER_TYPES:
        column = primary.key_column(key[0])
        with primary.database.connect() as connection:
            ends = connection.execute(primary.select(sa.true(), sa.func.min(column), sa.func.max(column))).one()
        smallest, greatest = (0, 0) if ends[0] is None else ends
        if type(smallest) is int and type(greatest) is int:
            return IntegerBuckets(key[0], smallest, greatest, unsigned=type_ == "uint64")
    return HashBuckets(forms)
