"""Write topics as Debezium's connector for PostgreSQL writes them, without a database or a connector."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from support.kafka_admin import create_topics

Fields = Sequence[Mapping[str, Any]]

ID: Mapping[str, Any] = {"type": "int64", "optional": False, "field": "id"}


def text(name: str, *, optional: bool = True) -> Mapping[str, Any]:
    """Return the schema of a text column."""
    return {"type": "string", "optional": optional, "field": name}


def decimal(name: str, scale: int, precision: int) -> Mapping[str, Any]:
    """Return the schema of a numeric column with ``decimal.handling.mode=precise``."""
    parameters = {"scale": str(scale), "connect.decimal.precision": str(precision)}
    kind = {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "version": 1}
    return {**kind, "optional": True, "parameters": parameters, "field": name}


def with_schema(schema: Mapping[str, Any] | None, payload: Any) -> bytes:
    """Return a message as JsonConverter writes it, with or without schemas."""
    return orjson.dumps(payload if schema is None else {"schema": schema, "payload": payload})


class DebeziumSource:
    """Write the events of one connector. Each method waits until Kafka has stored its messages.

    ``schemas``: whether messages carry schemas. ``metadata``: ``provide.transaction.metadata``.
    """

    def __init__(self, bootstrap: str, name: str, *, schemas: bool = True, metadata: bool = True) -> None:
        self.name = name
        self._schemas = schemas
        self._metadata = metadata
        self._tables: dict[str, tuple[Fields, Sequence[str]]] = {}
        self._made: set[str] = set()
        self._last_commit: int | None = None
        self.lsn = 1_000
        self._xid = 700
        self.sent: list[tuple[str, bytes | None, bytes]] = []
        """All messages in the order of their sending: topic, value and key. ``repeat`` sends some again."""
        self._bootstrap = bootstrap
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "max.in.flight.requests.per.connection": 1}
        )

    def table(self, name: str, *fields: Mapping[str, Any], key: Sequence[str] = ("id",)) -> None:
        """Describe a table, or its columns after a migration. The column ``id`` is added."""
        own = () if any(one["field"] == "id" for one in fields) else (ID,)
        self._tables[name] = ((*own, *fields), key)

    def snapshot(self, table: str, *rows: Mapping[str, Any], last: bool = True) -> None:
        """Publish existing rows."""
        for number, row in enumerate(rows):
            mark = "last" if last and number == len(rows) - 1 else "true"
            self._event("r", table, row, transaction=None, snapshot=mark)
        self._flush()

    def transaction(self, *lines: tuple[str, str, Mapping[str, Any]], end: bool = True) -> str:
        """Publish a transaction. ``lines``: op, table and row. The row of a delete needs only the key."""
        self._xid += 1
        self._record("BEGIN", None)
        counts: dict[str, int] = {}
        for order, (op, table, row) in enumerate(lines, 1):
            self.lsn += 10
            counts[table] = counts.get(table, 0) + 1
            block = {"id": f"{self._xid}:{self.lsn}", "total_order": order, "data_collection_order": counts[table]}
            self._event(op, table, row, transaction=block if self._metadata else None)
        if end:
            self.end(counts)
        self._flush()
        return str(self._xid)

    def end(self, counts: Mapping[str, int]) -> None:
        """Publish the END of the last transaction."""
        self.lsn += 10
        self._record("END", counts)
        self._last_commit = self.lsn
        self._flush()

    def repeat(self, start: int, stop: int | None = None) -> None:
        """Send messages again, as a connector does that begins again at its stored offset after a crash."""
        for topic, value, key in self.sent[start:stop]:
            self._producer.produce(topic, value, key, partition=0)
        self._flush()

    def send(self, topic: str, value: bytes | None, key: bytes) -> None:
        """Send any message to the first partition of a topic, which is created before its first message."""
        if topic not in self._made:
            create_topics(self._bootstrap, NewTopic(topic, 1, 1))
            self._made.add(topic)
        self._producer.produce(topic, value, key, partition=0)
        self.sent.append((topic, value, key))

    def _flush(self) -> None:
        assert self._producer.flush(30) == 0

    def _record(self, status: str, counts: Mapping[str, int] | None) -> None:
        if not self._metadata:
            return
        collections = None
        if counts is not None:
            collections = [{"data_collection": f"public.{t}", "event_count": n} for t, n in counts.items()]
        total = None if counts is None else sum(counts.values())
        identity = f"{self._xid}:{self.lsn}"
        record = {"status": status, "id": identity, "event_count": total, "data_collections": collections}
        self.send(
            f"{self.name}.transaction",
            orjson.dumps(record | {"ts_ms": time.time_ns() // 1_000_000}),
            orjson.dumps({"id": identity}),
        )

    def _event(
        self,
        op: str,
        table: str,
        row: Mapping[str, Any],
        *,
        transaction: Mapping[str, Any] | None,
        snapshot: str = "false",
    ) -> None:
        fields, key_names = self._tables[table]
        topic, now = f"{self.name}.public.{table}", time.time_ns() // 1_000_000
        commit = None if self._last_commit is None else str(self._last_commit)
        source = {
            "version": "3.6.0.Final", "connector": "postgresql", "name": self.name, "ts_ms": now, "snapshot": snapshot,
            "db": "app", "sequence": orjson.dumps([commit, str(self.lsn)]).decode(), "schema": "public", "table": table,
            "txId": self._xid, "lsn": self.lsn, "xmin": None,
        }  # fmt: skip
        after = None if op in ("d", "t") else row
        value = {"before": None, "after": after, "source": source, "op": op, "ts_ms": now, "transaction": transaction}
        key = {name: row[name] for name in key_names if name in row}
        row_schema = {"type": "struct", "fields": fields, "optional": True}
        schema = {"type": "struct", "fields": [{**row_schema, "field": "before"}, {**row_schema, "field": "after"}]}
        key_schema = {"type": "struct", "fields": [one for one in fields if one["field"] in key_names]}
        key_text = with_schema(key_schema if self._schemas else None, key) if key else b""
        self.send(topic, with_schema(schema if self._schemas else None, value), key_text)
        if op == "d":
            self.send(topic, None, key_text)
