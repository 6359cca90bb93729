"""Choose records: by table, key, transaction and time."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from rowcast.consumer.topics.records import TopicRecord, read_key, read_record
from rowcast.shared.errors import ConfigurationError, DataError

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
_SPAN_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Selection:
    """Say which records of the chosen tables are wanted.

    ``tables``: patterns of ``schema.table``. ``key``: the key's values, separated by commas, or a JSON object of the
    key's columns. ``transaction``: an id. ``since_ms``: the first time of a commit, in milliseconds since 1970.
    """

    tables: tuple[str, ...] = ("*",)
    key: str | None = None
    transaction: str | None = None
    since_ms: int = 0

    @property
    def is_narrow(self) -> bool:
        """Return whether most records are not wanted. The wanted records may then be anywhere in the topics."""
        return self.key is not None or self.transaction is not None

    def record_of(self, message: Any) -> TopicRecord | None:
        """Return the record of a message, or None if not wanted. Most messages are refused unparsed."""
        if self.key is not None and not self.has_key(message.key()):
            return None
        if self.transaction is not None and self.transaction.encode() not in (message.value() or b""):
            return None
        record = read_record(message)
        if record.event is None:
            return None if self.transaction is not None or record.published_ms < self.since_ms else record
        if self.transaction is not None and self.transaction not in _names(record.event.transaction):
            return None
        return record if record.event.ts_ms >= self.since_ms else None

    def has_key(self, key: bytes | None) -> bool:
        """Return whether a message key is the wanted key."""
        try:
            columns = read_key(key)
        except DataError:
            return False
        return self.key in (key_text(columns), orjson.dumps(columns).decode()) or columns == _parsed(self.key or "")


def key_text(columns: dict[str, Any]) -> str:
    """Return the values of a key, separated by commas, as ``--key`` takes them."""
    return ",".join(value if isinstance(value, str) else orjson.dumps(value).decode() for value in columns.values())


def parse_since(text: str) -> int:
    """Return a time in milliseconds since 1970, from ``90s``, ``10m``, ``2h``, ``3d`` (ago), or from a date and time.

    A time without a zone is UTC. Raise ConfigurationError.
    """
    span = _SPAN.fullmatch(text.strip())
    if span is not None:
        return time.time_ns() // 1_000_000 - int(float(span[1]) * _SPAN_S[span[2]] * 1_000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is not a time. Give a span up to now, as in 90s, 10m, 2h or 3d, or a date and time, as in "
            "2026-11-30T14:00."
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


def _names(transaction: str | None) -> tuple[str, ...]:
    """Return the forms of a transaction's id. Debezium adds an lsn behind a colon."""
    return () if transaction is None else (transaction, transaction.partition(":")[0])


def _parsed(key: str) -> Any:
    try:
        return orjson.loads(key)
    except orjson.JSONDecodeError:
        return None
