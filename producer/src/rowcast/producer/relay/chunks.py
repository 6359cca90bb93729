"""Reading a table that is there, chunk by chunk in the order of its key, as the lines that the outbox would have."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, Dialect

from rowcast.producer.relay.lines import Change, LineHead, canonical_key
from rowcast.producer.relay.resume_keys import key_from_json, key_to_json
from rowcast.producer.relay.streaming import streamed
from rowcast.shared.errors import DataError
from rowcast.shared.leaving import leaving_rows, stored_images
from rowcast.shared.shapes import ColumnShape, TableShape
from rowcast.shared.table_settings import TableSettings
from rowcast.shared.types import engine_family

CHUNK_BYTES = 8 * 1024 * 1024
"""A chunk's rows are in memory at once: it ends with the row that reaches this."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows as changes of op ``r``; ``last_key`` is where the next chunk goes on, None if there is none; ``largest`` is
    the size of the largest key and image, in bytes."""

    changes: list[Change]
    last_key: str | None
    largest: int


class ChunkReader:
    """One table's rows. ``condition``: SQL over its columns. Raises ConfigurationError if a salt is not known."""

    def __init__(self, dialect: Dialect, shape: TableShape, condition: str | None, settings: TableSettings) -> None:
        self.shape = shape
        self._family = engine_family(dialect.name)
        self._head = LineHead(shape.full_name, shape.version, "r")
        table, key, row = stored_images(shape, settings)
        columns = [(shape.column(name), table.c[name]) for name in shape.primary_key]
        self._order = [self._comparable(*column) for column in columns]
        last = [self._written(c, ordered) for (c, _), ordered in zip(columns, self._order, strict=True)]
        # An index has these in their own order.
        order = [stored for _, stored in columns]
        image: ColumnElement[str] = row
        if shape.where is not None:
            image = sa.case((leaving_rows(shape), image))
        if condition is not None:
            image = sa.case((sa.literal_column(f"({condition})"), image))
        # Not in a WHERE: a chunk looks at so many rows, wanted or not, and holds the relay up no longer.
        self._rows = sa.select(key, image, *last).select_from(table).order_by(*order)

    def _comparable(self, column: ColumnShape, stored: ColumnElement[Any]) -> ColumnElement[Any]:
        if self._family != "mysql":
            return stored
        native = column.type.native.upper()
        if column.type.name == "enum" or native.startswith(("ENUM", "SET", "BIT")):
            # They sort by number and compare as text.
            return sa.cast(stored, mysql.INTEGER(unsigned=True))
        # A FLOAT is written with 6 digits.
        return sa.cast(stored, sa.Double()) if column.type.name == "float32" else stored

    def _written(self, column: ColumnShape, comparable: ColumnElement[Any]) -> ColumnElement[Any]:
        if self._family == "postgresql":
            # As text it can be written down whatever its type is, and is read back as its column's.
            return sa.cast(comparable, sa.Text)
        if self._family == "mysql" and column.type.name == "time":
            # The driver writes times below zero wrong.
            return sa.cast(comparable, sa.CHAR)
        return comparable

    def read(self, connection: Connection, after: str | None, limit: int) -> Chunk:
        """Of the next rows behind the key ``after`` those that are wanted: of ``limit``, or as many as make
        ``CHUNK_BYTES``.

        Raises the database's errors as they are, DataError if there is no going on.
        """
        rows = self._rows if after is None else self._rows.where(self._behind(key_from_json(after)))
        head = self._head
        changes: list[Change] = []
        seen = size = largest = 0
        last_key = None
        with closing(streamed(connection, rows.limit(limit))) as found:
            for row in found:
                seen += 1
                if row[1] is not None:
                    key, image = canonical_key(row[0].encode()), row[1].encode()
                    changes.append((head, key, image, None))
                    own = len(key) + len(image)
                    size += own
                    if own > largest:
                        largest = own
                if size >= CHUNK_BYTES:
                    break
        if seen == limit or size >= CHUNK_BYTES:
            last_key = key_to_json(row[2:])
        if last_key is not None and last_key == after:
            raise DataError(f"there is no going on behind the key {last_key}: it does not compare as it sorts")
        return Chunk(changes, last_key, largest)

    def _behind(self, values: list[Any]) -> ColumnElement[bool]:
        # Without types of their own the values take their columns'.
        last = [sa.bindparam(None, value, type_=sa.types.NullType()) for value in values]
        if len(last) != len(self._order):
            raise DataError("the primary key is another one than when it began")
        if len(last) == 1:
            return self._order[0] > last[0]
        if self._family != "mysql":
            return sa.tuple_(*self._order) > sa.tuple_(*last)
        # MariaDB and MySQL read the whole table for a comparison of tuples.
        ways = [
            sa.and_(*(k == v for k, v in zip(self._order[:i], last[:i], strict=True)), self._order[i] > last[i])
            for i in range(len(last))
        ]
        return sa.and_(self._order[0] >= last[0], sa.or_(*ways))
