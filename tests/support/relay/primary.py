"""Keep a primary with the relay's tables, in a SQLite file, and insert outbox rows directly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from rowcast.producer.outbox.schema import OutboxTables, outbox_tables
from rowcast.shared.database.engines import open_engine
from rowcast.shared.tables.shape import ColumnShape, PortableType, TableShape

SCHEMA = "public"


def shape(table: str, *columns: str) -> TableShape:
    """Return the shape of a table with an integer key ``id`` and text columns."""
    key = ColumnShape("id", PortableType("int64"), nullable=False)
    texts = (ColumnShape(name, PortableType("text")) for name in columns)
    return TableShape(SCHEMA, table, "sqlite", (key, *texts), ("id",))


ORDERS = shape("orders", "note")
ITEMS = shape("items", "note")


def line(table: TableShape, op: str, key: int, note: str = "") -> str:
    """Return an outbox line as the capture writes it."""
    head = f'{{"t":"{table.full_name}","v":"{table.version}","op":"{op}","k":{{"id" : {key}}}'
    return head + ("}\n" if op == "d" else f',"a":{{"id" : {key}, "note" : {orjson.dumps(note).decode()}}}}}\n')


@dataclass(frozen=True)
class Primary:
    """Hold a database with the outbox tables and no further tables."""

    engine: Engine
    tables: OutboxTables

    def add_shapes(self, *shapes: TableShape, created_ms: int = 1) -> None:
        with self.engine.begin() as connection:
            for each in shapes:
                row = {"table_name": each.full_name, "version": each.version, "created_ms": created_ms}
                document = {"rows_before": False, "shape": each.to_json().decode()}
                connection.execute(sa.insert(self.tables.shape), {**row, **document})

    def add(self, tx: str, *lines: str, complete: bool | None = True, id_: int | None = None) -> int:
        """Insert one outbox row and return its id."""
        row: dict[str, Any] = {"tx": tx, "ts_ms": 1_700_000_000_000, "complete": complete, "changes": "".join(lines)}
        if id_ is not None:
            row["id"] = id_
        with self.engine.begin() as connection:
            result = connection.execute(sa.insert(self.tables.outbox).values(row))
            assert result.inserted_primary_key is not None
            return int(result.inserted_primary_key[0])

    def ids(self) -> Sequence[int]:
        """Return the ids of the outbox rows that are left."""
        row = self.tables.outbox.c
        with self.engine.connect() as connection:
            return connection.execute(sa.select(row.id).order_by(row.id)).scalars().all()

    def claims(self) -> int:
        """Return the number of recorded claims."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(self.tables.claim)).scalar_one()


@contextmanager
def primary_at(url: str | URL | Path) -> Iterator[Primary]:
    """Create the outbox tables in an empty database."""
    engine = open_engine(f"sqlite:///{url}" if isinstance(url, Path) else url, "primary")
    metadata = sa.MetaData()
    tables = outbox_tables(metadata)
    metadata.create_all(engine)
    try:
        yield Primary(engine, tables)
    finally:
        engine.dispose()
