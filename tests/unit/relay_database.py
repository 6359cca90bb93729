"""A primary of the relay's own tables, in an SQLite file, with outbox rows made by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from rowcast.producer.outbox import OutboxTables, outbox_tables
from rowcast.shared.databases import open_engine
from rowcast.shared.shapes import ColumnShape, PortableType, TableShape

SCHEMA = "public"


def shape(table: str, *columns: str) -> TableShape:
    """A table with an integer key ``id`` and text columns."""
    key = ColumnShape("id", PortableType("int64"), nullable=False)
    texts = (ColumnShape(name, PortableType("text")) for name in columns)
    return TableShape(SCHEMA, table, "sqlite", (key, *texts), ("id",))


ORDERS = shape("orders", "note")
ITEMS = shape("items", "note")


def line(table: TableShape, op: str, key: int, note: str = "") -> str:
    """An outbox line as the capture writes it."""
    head = f'{{"t":"{table.full_name}","v":"{table.version}","op":"{op}","k":{{"id" : {key}}}'
    return head + ("}\n" if op == "d" else f',"a":{{"id" : {key}, "note" : {orjson.dumps(note).decode()}}}}}\n')


@dataclass(frozen=True)
class Primary:
    """A database with the outbox tables and nothing else."""

    engine: Engine
    tables: OutboxTables

    def add_shapes(self, *shapes: TableShape, created_ms: int = 1) -> None:
        with self.engine.begin() as connection:
            for each in shapes:
                row = {"table_name": each.full_name, "version": each.version, "created_ms": created_ms}
                document = {"rows_before": False, "shape": each.to_json().decode()}
                connection.execute(sa.insert(self.tables.shape), {**row, **document})

    def add(self, tx: str, *lines: str, complete: bool | None = True, id_: int | None = None) -> int:
        """One outbox row; its id."""
        row: dict[str, Any] = {"tx": tx, "ts_ms": 1_700_000_000_000, "complete": complete, "changes": "".join(lines)}
        if id_ is not None:
            row["id"] = id_
        with self.engine.begin() as connection:
            result = connection.execute(sa.insert(self.tables.outbox).values(row))
            return int(result.inserted_primary_key[0])

    def ids(self) -> Sequence[int]:
        """The outbox rows that are left."""
        row = self.tables.outbox.c
        with self.engine.connect() as connection:
            return connection.execute(sa.select(row.id).order_by(row.id)).scalars().all()

    def claims(self) -> int:
        """The claims that are recorded."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(self.tables.claim)).scalar_one()


@contextmanager
def primary_at(url: str | URL | Path) -> Iterator[Primary]:
    """The outbox tables, made in an empty database."""
    engine = open_engine(f"sqlite:///{url}" if isinstance(url, Path) else url, "primary")
    metadata = sa.MetaData()
    tables = outbox_tables(metadata)
    metadata.create_all(engine)
    try:
        yield Primary(engine, tables)
    finally:
        engine.dispose()
