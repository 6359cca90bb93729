"""Reading a table that is there, chunk by chunk in the order of its key, as the lines that the outbox would have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.engine import Connection, Dialect

from rowcast.producer.relay.lines import Change, LineHead
from rowcast.producer.relay.resume_keys import key_from_json, key_to_json
from rowcast.shared.images import RowImage
from rowcast.shared.leaving import leaving_rows, leaving_value, stored_table
from rowcast.shared.shapes import TableShape
from rowcast.shared.table_settings import TableSettings
from rowcast.shared.types import engine_family


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows as changes of op ``r``; ``last_key`` is where the next chunk goes on, None if there is none."""

    changes: list[Change]
    last_key: str | None


class ChunkReader:
    """One table's rows. ``condition``: SQL over its columns. Raises ConfigurationError if a salt is not known."""

    def __init__(
        self, dialect: Dialect, shape: TableShape, version: str, condition: str | None, settings: TableSettings
    ) -> None:
        self._family = engine_family(dialect.name)
        self._head = LineHead(shape.full_name, version, "r")
        table = stored_table(shape)
        self._order = [self._comparable(shape, table.c[name]) for name in shape.primary_key]
        key = RowImage([(name, table.c[name], shape.column(name).type) for name in shape.primary_key])
        row = RowImage([(c.name, leaving_value(shape, c, table.c[c.name], settings), c.type) for c in shape.columns])
        # As text the key can be written down whatever its type is, and PostgreSQL reads it back as its column's.
        last = [sa.cast(k, sa.Text) for k in self._order] if self._family == "postgresql" else self._order
        self._rows = sa.select(key, row, *last).select_from(table).where(leaving_rows(shape)).order_by(*self._order)
        if condition is not None:
            self._rows = self._rows.where(sa.literal_column(f"({condition})"))

    def _comparable(self, shape: TableShape, column: ColumnElement[Any]) -> ColumnElement[Any]:
        if self._family == "mysql" and shape.column(str(column.name)).type.name == "enum":
            # It sorts by number and compares as text.
            return sa.cast(column, sa.CHAR)
        return column

    def read(self, connection: Connection, after: str | None, limit: int) -> Chunk:
        """The next rows behind the key ``after``. Raises the database's errors as they are."""
        rows = self._rows if after is None else self._rows.where(self._behind(key_from_json(after)))
        found = connection.execute(rows.limit(limit)).all()
        changes: list[Change] = [
            # The database's white space and escapes must not make two keys of one.
            (self._head, orjson.dumps(orjson.loads(key)), image.encode(), None)
            for key, image, *_ in found
        ]
        return Chunk(changes, key_to_json(found[-1][2:]) if len(found) == limit else None)

    def _behind(self, values: list[Any]) -> ColumnElement[bool]:
        # Without types of their own the values take their columns'.
        last = [sa.bindparam(None, value, type_=sa.types.NullType()) for value in values]
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
