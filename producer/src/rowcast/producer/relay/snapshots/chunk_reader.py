"""Read the existing rows of a table chunk by chunk, in the order of the key, as the changes of op ``r``."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection, Dialect

from rowcast.producer.outbox.line_parser import Change, LineHead, canonical_key
from rowcast.producer.relay.snapshots.resume_key import key_from_json, key_to_json
from rowcast.producer.relay.snapshots.row_stream import stream_rows
from rowcast.shared import row_values
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.errors import DataError
from rowcast.shared.images.published_rows import row_filter, stored_images
from rowcast.shared.tables.key_order import KeyOrder
from rowcast.shared.tables.shape import TableShape

CHUNK_BYTES = 8 * 1024 * 1024
"""A chunk ends with the row that reaches this size, because all its rows are in memory at once."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Hold the rows of a chunk as changes of op ``r``.

    ``last_key``: JSON of the key after which the next chunk begins, or None for the last chunk. ``largest``: bytes of
    the largest key and row image.
    """

    changes: list[Change]
    last_key: str | None
    largest: int


class ChunkReader:
    """Read the rows of one table. ``condition``: SQL over the columns, or None.

    Raises ConfigurationError if the salt of a hashed column is unknown.
    """

    def __init__(self, dialect: Dialect, shape: TableShape, condition: str | None, settings: TableSettings) -> None:
        self.shape = shape
        self._head = LineHead(shape.full_name, shape.version, "r")
        table, key, row = stored_images(shape, settings)
        columns = [(shape.column(name), table.c[name]) for name in shape.primary_key]
        self._order = KeyOrder(dialect.name, columns)
        image: ColumnElement[str] = row
        if shape.where is not None:
            image = sa.case((row_filter(shape), image))
        if condition is not None:
            image = sa.case((sa.literal_column(f"({condition})"), image))
        # The conditions are not in a WHERE clause: there a chunk would scan any number of unwanted rows, and delay the
        # relay. Unwanted rows have the image NULL instead, and count for the chunk's limit.
        self._rows = sa.select(key, image, *self._order.last).select_from(table).order_by(*self._order.by)

    def read(self, connection: Connection, after: str | None, limit: int) -> Chunk:
        """Read the next rows after the key ``after``, and return the rows that match the filter and the condition.

        Reads ``limit`` rows, or fewer rows if their size reaches ``CHUNK_BYTES``. Raises the database's errors
        unchanged, and DataError if the snapshot cannot continue.
        """
        rows = self._rows if after is None else self._rows.where(self._order.after(key_from_json(after)))
        head = self._head
        changes: list[Change] = []
        seen = size = largest = 0
        last_key = None
        with closing(stream_rows(connection, rows.limit(limit))) as found:
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
            raise DataError(
                f"the snapshot cannot continue after {row_values.text_of(last_key, 'a key')}: the column's comparison "
                "and sort order differ"
            )
        return Chunk(changes, last_key, largest)
