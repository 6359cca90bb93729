"""A source without a database: writes what the relay would publish, as docs/architecture.md says it.

`Source` numbers lsns and transactions like a relay does. `lines` are (op, table, row) of one transaction; the row of a
delete needs its key only.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from rowcast.shared.events import (
    TransactionEvent,
    schema_topic,
    table_topic,
    transaction_topic,
    transaction_value,
)
from rowcast.shared.shapes import ColumnShape, ForeignKeyShape, PortableType, TableShape

Row = dict[str, Any] | str
"""A row's columns, or an image's text as a database wrote it."""

Line = tuple[str, str, Row]


def column(name: str, type_: str | PortableType = "int64", *, nullable: bool = True) -> ColumnShape:
    """A column; the type by name, or whole."""
    return ColumnShape(name, PortableType(type_) if isinstance(type_, str) else type_, nullable)


def shape(
    name: str,
    *columns: ColumnShape,
    key: Sequence[str] = ("id",),
    unique: Iterable[tuple[str, ...]] = (),
    refers: Iterable[tuple[str, str]] = (),
    engine: str = "elsewhere",
    schema: str = "public",
    default_schema: bool = True,
) -> TableShape:
    """A table's shape with a bigint `id`, unless one is given. `refers`: (column, other table), to its `id`."""
    named = {c.name for c in columns}
    own = () if "id" in named or "id" not in key else (column("id", nullable=False),)
    return TableShape(
        schema,
        name,
        engine,
        (*own, *columns),
        tuple(key),
        default_schema,
        tuple(unique),
        tuple(ForeignKeyShape((c,), schema, table, ("id",)) for c, table in refers),
    )


@dataclass
class Source:
    """One source's topics. Nothing is sent before `flush`, or the end of `transaction`."""

    bootstrap: str
    name: str
    partitions: int = 1
    lsn: int = 0
    transactions: int = 0
    shapes: dict[str, TableShape] = field(default_factory=dict)
    producer: Producer = field(init=False)

    def __post_init__(self) -> None:
        self.producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 0, "enable.idempotence": True})
        self._made: set[str] = set()

    def create_topics(self, *topics: str, partitions: int | None = None) -> None:
        """On a real broker; the embedded one makes topics by itself."""
        new = [t for t in topics if t not in self._made]
        if not new:
            return
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        made = admin.create_topics([NewTopic(t, partitions or self.partitions, 1) for t in new])
        for future in made.values():
            future.result(10)
        self._made.update(new)

    def add(self, *shapes: TableShape, topics: bool = True) -> None:
        """Publishes shapes, and makes their tables' topics."""
        if topics:
            self.create_topics(transaction_topic(self.name), schema_topic(self.name), partitions=1)
        for one in shapes:
            if topics:
                self.create_topics(table_topic(self.name, one.schema, one.name))
            self.shapes[one.full_name] = one
            self.lsn += 1
            value = orjson.loads(one.to_json()) | {"version": one.version, "source": self.name, "lsn": self.lsn}
            key = orjson.dumps({"schema": one.schema, "table": one.name})
            self.send(schema_topic(self.name), orjson.dumps(value), key, partition=0)
        self.flush()

    def transaction(self, *lines: Line, end: bool = True, begin: bool = True, id: str | None = None) -> str:
        """Publishes one transaction, and waits until Kafka has it. Returns its id."""
        identity = self.put(*lines, end=end, begin=begin, id=id)
        self.flush()
        return identity

    def put(self, *lines: Line, end: bool = True, begin: bool = True, id: str | None = None) -> str:
        """As `transaction`, without waiting."""
        self.transactions += 1
        identity = id or str(700 + self.transactions)
        ts_ms = int(time.time() * 1000)
        if begin:
            self.lsn += 1
            self._mark(TransactionEvent("BEGIN", identity, ts_ms, self.lsn))
        counts: dict[str, int] = {}
        for order, (op, table, row) in enumerate(lines, 1):
            name = table if "." in table else f"public.{table}"
            counts[name] = counts.get(name, 0) + 1
            self.lsn += 1
            self.event(op, name, row, self.lsn, identity, order, counts[name])
        if end:
            self.lsn += 1
            self._mark(TransactionEvent("END", identity, ts_ms, self.lsn, len(lines), counts))
        return identity

    def event(
        self, op: str, name: str, row: Row, lsn: int, transaction: str | None, order: int = 1, nth: int = 1
    ) -> None:
        """One change event, and the tombstone of a delete."""
        table = self.shapes[name]
        columns = orjson.loads(row) if isinstance(row, str) else row
        key = orjson.dumps({c: columns[c] for c in table.primary_key})
        topic = table_topic(self.name, table.schema, table.name)
        self.send(topic, self.envelope(op, table, row, lsn, transaction, order, nth), key)
        if op == "d":
            self.send(topic, None, key)

    def envelope(
        self, op: str, table: TableShape, row: Row, lsn: int, transaction: str | None, order: int, nth: int
    ) -> bytes:
        """An event's value, laid out as the relay does."""
        ts_ms = int(time.time() * 1000)
        return orjson.dumps(
            {
                "before": None,
                "after": None if op == "d" else orjson.Fragment(row) if isinstance(row, str) else row,
                "source": {
                    "version": "0.1.0",
                    "connector": "rowcast",
                    "name": self.name,
                    "ts_ms": ts_ms,
                    "snapshot": "false",
                    "db": "shop",
                    "schema": table.schema,
                    "table": table.name,
                    "txId": transaction,
                    "lsn": lsn,
                    "origin": None,
                    "shape": table.version,
                },
                "op": op,
                "ts_ms": ts_ms,
                "transaction": None
                if transaction is None
                else {"id": transaction, "total_order": order, "data_collection_order": nth},
            }
        )

    def _mark(self, event: TransactionEvent) -> None:
        key = orjson.dumps({"id": event.id})
        self.send(transaction_topic(self.name), transaction_value(event), key, partition=0)

    def send(self, topic: str, value: bytes | None, key: bytes | None, partition: int | None = None) -> None:
        """Any message at all."""
        where: dict[str, Any] = {} if partition is None else {"partition": partition}
        while True:
            try:
                self.producer.produce(topic, value, key, on_delivery=_refused, **where)
                break
            except BufferError:
                self.producer.poll(0.1)
        self.producer.poll(0)

    def flush(self) -> None:
        """Waits until Kafka has everything."""
        assert self.producer.flush(30) == 0


def _refused(error: Any, message: Any) -> None:
    assert error is None, f"{message.topic()}: {error}"
