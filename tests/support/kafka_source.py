"""Publish events without a database, in the formats of docs/architecture.md.

`Source` numbers lsns and transactions like a relay. `lines` are the (op, table, row) of one transaction. The row of a
delete needs only the key.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from rowcast.shared.kafka.messages import TOMBSTONE_LSN, TransactionEvent, transaction_value
from rowcast.shared.kafka.topic_names import schema_topic, table_topic, transaction_topic
from rowcast.shared.tables.shape import ColumnShape, ForeignKeyShape, PortableType, TableShape
from support.kafka_admin import create_topics

Row = dict[str, Any] | str
"""The columns of a row, or the text of a row image as a database wrote it."""

Line = tuple[str, str, Row]


def column(name: str, type_: str | PortableType = "int64", *, nullable: bool = True) -> ColumnShape:
    """Return the shape of a column. ``type_``: the name of a portable type, or the type itself."""
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
    """Return a table's shape.

    A bigint column `id` is added if the key contains `id` and no column has the name. `refers`: pairs of a column and
    the table to whose `id` the column refers.
    """
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
    """Write the topics of one source. Nothing is sent before `flush` or the end of `transaction`.

    ``tombstone_lsns``: tombstones have the lsns of their deletes, unlike those of older relays and of Debezium.
    """

    bootstrap: str
    name: str
    partitions: int = 1
    tombstone_lsns: bool = True
    lsn: int = 0
    transactions: int = 0
    shapes: dict[str, TableShape] = field(default_factory=dict)
    producer: Producer = field(init=False)

    def __post_init__(self) -> None:
        # With several requests in flight, the first messages of a new topic may be lost: a request before the partition
        # has its leader is refused, and its repetition counts as a duplicate of the next request. Transactions prevent
        # this, but a test shows messages to a worker before their transaction commits.
        self.producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "linger.ms": 0,
                "enable.idempotence": True,
                "max.in.flight.requests.per.connection": 1,
                # As the relay's.
                "partitioner": "murmur2_random",
            }
        )
        self._made: set[str] = set()

    def create_topics(self, partitions: Mapping[str, int]) -> None:
        """Create topics on a real broker. The embedded broker creates topics when they are first used.

        ``partitions``: the numbers of partitions by topic.
        """
        new = partitions.keys() - self._made
        if new:
            create_topics(self.bootstrap, *(NewTopic(topic, partitions[topic], 1) for topic in new))
            self._made |= new

    def add(self, *shapes: TableShape, topics: bool = True) -> None:
        """Publish shapes, and create the topics of their tables."""
        if topics:
            own = dict.fromkeys((transaction_topic(self.name), schema_topic(self.name)), 1)
            self.create_topics(own | {table_topic(self.name, one.schema, one.name): self.partitions for one in shapes})
        for one in shapes:
            self.shapes[one.full_name] = one
            self.lsn += 1
            value = orjson.loads(one.to_json()) | {"version": one.version, "source": self.name, "lsn": self.lsn}
            key = orjson.dumps({"schema": one.schema, "table": one.name})
            self.send(schema_topic(self.name), orjson.dumps(value), key, partition=0)
        self.flush()

    def transaction(self, *lines: Line, end: bool = True, begin: bool = True, id: str | None = None) -> str:
        """Publish one transaction and wait until Kafka has stored the messages. Return the transaction's id."""
        identity = self.put(*lines, end=end, begin=begin, id=id)
        self.flush()
        return identity

    def put(self, *lines: Line, end: bool = True, begin: bool = True, id: str | None = None) -> str:
        """Publish a transaction like `transaction`, without waiting."""
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
            self.end(identity, counts)
        return identity

    def end(self, identity: str, counts: dict[str, int]) -> None:
        """Send the END of a transaction with these numbers of events by table."""
        self.lsn += 1
        ts_ms = int(time.time() * 1000)
        self._mark(TransactionEvent("END", identity, ts_ms, self.lsn, sum(counts.values()), counts))

    def event(
        self, op: str, name: str, row: Row, lsn: int, transaction: str | None, order: int = 1, nth: int = 1
    ) -> None:
        """Send one change event, and a tombstone after a delete."""
        table = self.shapes[name]
        columns = orjson.loads(row) if isinstance(row, str) else row
        # A truncate has no key, as in Debezium's connectors.
        key = None if op == "t" else orjson.dumps({c: columns[c] for c in table.primary_key})
        topic = table_topic(self.name, table.schema, table.name)
        self.send(topic, self.envelope(op, table, row, lsn, transaction, order, nth), key)
        if op == "d":
            self.send(topic, None, key, headers=[(TOMBSTONE_LSN, b"%d" % lsn)] if self.tombstone_lsns else None)

    def envelope(
        self, op: str, table: TableShape, row: Row, lsn: int, transaction: str | None, order: int, nth: int
    ) -> bytes:
        """Return the value of an event, in the relay's order of fields."""
        ts_ms = int(time.time() * 1000)
        return orjson.dumps(
            {
                "before": None,
                "after": None if op in "dt" else orjson.Fragment(row) if isinstance(row, str) else row,
                "source": {
                    "version": "0.2.0",
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

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None = None,
        headers: list[tuple[str, bytes]] | None = None,
    ) -> None:
        """Send any message."""
        where: dict[str, Any] = {} if partition is None else {"partition": partition}
        if headers is not None:
            where["headers"] = headers
        while True:
            try:
                self.producer.produce(topic, value, key, on_delivery=_check_stored, **where)
                break
            except BufferError:
                self.producer.poll(0.1)
        self.producer.poll(0)

    def flush(self) -> None:
        """Wait until Kafka has stored every message."""
        assert self.producer.flush(30) == 0


def _check_stored(error: Any, message: Any) -> None:
    assert error is None, f"{message.topic()}: {error}"
    assert message.offset() is not None, f"{message.topic()}: Kafka took a message for a duplicate and did not store it"
