"""Build the schemas of messages as Kafka Connect's JsonConverter writes them, with Debezium's names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from rowcast.producer.relay.messages.connect_types import connect_type
from rowcast.shared.tables.shape import ColumnShape, TableShape

_STRING = {"type": "string"}
_INT64 = {"type": "int64"}
_JSON = {"type": "string", "name": "io.debezium.data.Json", "version": 1}
_DEBEZIUM = "io.debezium.connector.common"


@dataclass(frozen=True, slots=True)
class Frame:
    """Hold the bytes before the payload of value and key, for one kind of message. After each payload comes ``}``."""

    before_value: bytes
    before_key: bytes

    def value(self, payload: bytes) -> bytes:
        """Return the message value: the schema and ``payload``."""
        return self.before_value + payload + b"}"

    def key(self, payload: bytes) -> bytes:
        """Return the message key: the schema and ``payload``."""
        return self.before_key + payload + b"}"


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"optional": True}


def _struct(name: str, fields: Iterable[tuple[str, dict[str, Any]]], version: int = 1) -> dict[str, Any]:
    members = [{"optional": False, **schema, "field": field} for field, schema in fields]
    return {"type": "struct", "fields": members, "optional": False, "name": name, "version": version}


def _frame(value: dict[str, Any], key: dict[str, Any]) -> Frame:
    return Frame(*(b'{"schema":%b,"payload":' % orjson.dumps(schema) for schema in (value, key)))


_SOURCE = _struct(
    "io.debezium.connector.rowcast.Source",
    [
        ("version", _STRING),
        ("connector", _STRING),
        ("name", _STRING),
        ("ts_ms", _INT64),
        ("snapshot", _STRING),
        ("db", _STRING),
        ("schema", _STRING),
        ("table", _STRING),
        ("txId", _optional(_STRING)),
        ("lsn", _INT64),
        ("origin", _optional(_STRING)),
        ("shape", _STRING),
    ],
)

_TRANSACTION = _struct(
    "event.block",
    [
        ("id", _STRING),
        ("total_order", _INT64),
        ("data_collection_order", _INT64),
        ("context", _optional(_JSON)),
    ],
)

_COLLECTION = _struct("event.collection", [("data_collection", _STRING), ("event_count", _INT64)])

TRANSACTION_FRAME = _frame(
    _struct(
        f"{_DEBEZIUM}.TransactionMetadataValue",
        [
            ("status", _STRING),
            ("id", _STRING),
            ("ts_ms", _INT64),
            ("event_count", _optional(_INT64)),
            ("data_collections", {"type": "array", "items": _COLLECTION, "optional": True}),
            ("lsn", _INT64),
            ("context", _optional(_JSON)),
            ("timeline", _optional(_INT64)),
        ],
    ),
    _struct(f"{_DEBEZIUM}.TransactionMetadataKey", [("id", _STRING)]),
)
"""The frame of BEGIN and END."""

HEARTBEAT_FRAME = _frame(
    _struct(f"{_DEBEZIUM}.Heartbeat", [("ts_ms", _INT64)]),
    _struct(f"{_DEBEZIUM}.ServerNameKey", [("serverName", _STRING)]),
)


def table_frame(shape: TableShape, topic: str) -> Frame:
    """Return the frame of a table's events. ``before`` may hold the key alone, so its non-key fields are optional."""

    def row_schema(*, old: bool) -> dict[str, Any]:
        fields = [(c, c.name not in shape.primary_key and (old or c.nullable)) for c in shape.columns]
        return _optional(_struct(f"{topic}.Value", [_column(shape, c, optional) for c, optional in fields]))

    envelope = _struct(
        f"{topic}.Envelope",
        [
            ("before", row_schema(old=True)),
            ("after", row_schema(old=False)),
            ("source", _SOURCE),
            ("op", _STRING),
            ("ts_ms", _optional(_INT64)),
            ("transaction", _optional(_TRANSACTION)),
        ],
        version=2,
    )
    key = [_column(shape, shape.column(name), False) for name in shape.primary_key]
    return _frame(envelope, _struct(f"{topic}.Key", key))


def _column(shape: TableShape, column: ColumnShape, optional: bool) -> tuple[str, dict[str, Any]]:
    return column.name, connect_type(column.type, shape.engine).schema | {"optional": optional}
