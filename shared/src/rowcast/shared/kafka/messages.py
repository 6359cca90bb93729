"""Write and parse messages: JSON in Debezium's form.

``docs/reference/*.schema.json`` describe each kind of message for other programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import contains
from typing import Annotated, Any, Literal

import msgspec
import orjson
from pydantic import Field

from rowcast.shared.errors import DataError
from rowcast.shared.strict_form import Name, Number, StrictForm, checked

TOMBSTONE_LSN = "__rowcast.lsn"
"""The header with the lsn of the delete event before a tombstone, as decimal digits."""


def heartbeat(source: str, ts_ms: int) -> tuple[bytes, bytes]:
    """Return value and key of a heartbeat in Debezium's form."""
    return orjson.dumps({"ts_ms": ts_ms}), orjson.dumps({"serverName": source})


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """Hold a change event as a consumer needs it. ``key``: the key's columns. ``after`` is None for a delete."""

    op: str
    key: dict[str, Any]
    after: dict[str, Any] | None
    source: str
    schema: str
    table: str
    lsn: int
    ts_ms: int
    transaction: str | None
    total_order: int
    shape_version: str | None

    @property
    def full_name(self) -> str:
        """Return ``schema.table``."""
        return f"{self.schema}.{self.table}"


class TransactionEvent(msgspec.Struct, frozen=True):
    """Hold a BEGIN or an END.

    ``data_collections`` maps ``schema.table`` to the number of its events (END only). ``context``: the transaction
    context that the application gave, or None. ``timeline``: the source's timeline. A message of timeline 1 names none.
    """

    status: str
    id: str
    ts_ms: int
    lsn: int
    event_count: int = 0
    data_collections: Mapping[str, int] | None = None
    context: Mapping[str, Any] | None = None
    timeline: int = 1


_NO_CHANGE = "not a change event"
_NO_TRANSACTION = "not a transaction event"


class _Source(StrictForm):
    name: Name
    schema_: Annotated[Name, Field(alias="schema")]
    table: Name
    lsn: Number
    ts_ms: Number
    shape: Name | None = None


class _Transaction(StrictForm):
    id: Name
    total_order: Number = 0


class _Change(StrictForm):
    op: Literal["c", "u", "d", "r", "t"]
    after: dict[str, Any] | None
    source: _Source
    transaction: _Transaction | None = None


class _EventCount(StrictForm):
    data_collection: Name
    event_count: Number


class _TransactionEvent(StrictForm):
    status: Literal["BEGIN", "END"]
    id: Name
    ts_ms: Number
    lsn: Number
    event_count: Number | None = None
    data_collections: list[_EventCount] | None = None
    context: dict[str, Any] | str | None = None
    timeline: Number | None = None


_QuickName = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
_QuickNumber = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class UsualEventCount(msgspec.Struct, gc=False):
    """The number of events of a table in an END."""

    data_collection: _QuickName
    event_count: _QuickNumber


class UsualTransactionEvent(msgspec.Struct, gc=False):
    """A BEGIN or END as the relay writes it.

    The decoder says less about faults than that of ``_TransactionEvent``, and takes a fifth of the time.
    """

    status: Literal["BEGIN", "END"]
    id: _QuickName
    ts_ms: _QuickNumber
    lsn: _QuickNumber
    event_count: _QuickNumber | None = None
    data_collections: list[UsualEventCount] | None = None
    context: dict[str, Any] | None = None
    timeline: _QuickNumber | None = None


_read_transaction = msgspec.json.Decoder(UsualTransactionEvent).decode
# No name may have this character.
_ZERO = b"\\u0000"


def parse_change(key: bytes | None, value: bytes) -> ChangeEvent:
    """Parse a message of a table topic. Raises DataError, with the reason, if it is no change event."""
    change = checked(_Change.model_validate, _json(value, _NO_CHANGE), _NO_CHANGE, DataError)
    key_columns: Any = _json(key, _NO_CHANGE) if key else None
    if not isinstance(key_columns, dict):
        if change.op != "t":
            raise DataError(f"{_NO_CHANGE}: the message key is not an object of the primary key's columns")
        key_columns = {}
    if change.op in ("c", "u", "r") and change.after is None:
        raise DataError(f"{_NO_CHANGE}: op {change.op!r} without a row in 'after'")
    source, transaction = change.source, change.transaction
    return ChangeEvent(
        change.op, key_columns, change.after, source.name, source.schema_, source.table, source.lsn, source.ts_ms,
        transaction.id if transaction else None, transaction.total_order if transaction else 0, source.shape,
    )  # fmt: skip


def parse_transaction(value: bytes) -> TransactionEvent:
    """Parse a message of the transaction topic. Raises DataError, with the reason, if it is no BEGIN or END."""
    try:
        quick = _read_transaction(value)
    except (ValueError, RecursionError):
        return _parse_transaction_fully(value)
    return _parse_transaction_fully(value) if _ZERO in value else _transaction_event(quick, quick.context)


def read_transactions(values: Sequence[bytes]) -> list[UsualTransactionEvent] | None:
    """Read messages of the transaction topic. Return None if ``parse_transaction`` must read each of them.

    A message costs less than half of the time. ``parse_transaction`` finds the fault of any other message.
    """
    if any(map(contains, values, repeat(_ZERO))):
        return None
    try:
        return list(map(_read_transaction, values))
    except (ValueError, RecursionError):
        return None


def _parse_transaction_fully(value: bytes) -> TransactionEvent:
    """Parse a message in any allowed form, and name the fault. Full path of ``parse_transaction``."""
    document = payload_of(_json(value, _NO_TRANSACTION))
    if isinstance(document, dict) and "lsn" not in document and "data_collections" in document:
        raise DataError(
            f"{_NO_TRANSACTION} of rowcast: a connector of Debezium wrote the message. Set format = 'debezium' in the "
            "configuration, or give the source another name than the connector's topic.prefix"
        )
    event = checked(_TransactionEvent.model_validate, document, _NO_TRANSACTION, DataError)
    context = event.context
    if isinstance(context, str):
        context = _json(context, _NO_TRANSACTION)
        if not isinstance(context, dict):
            raise DataError(f"{_NO_TRANSACTION}: the text in 'context' is not an object")
    return _transaction_event(event, context)


def _transaction_event(
    event: _TransactionEvent | UsualTransactionEvent, context: dict[str, Any] | None
) -> TransactionEvent:
    collections = event.data_collections
    return TransactionEvent(
        event.status, event.id, event.ts_ms, event.lsn, event.event_count or 0,
        None if collections is None else {c.data_collection: c.event_count for c in collections}, context,
        event.timeline or 1,
    )  # fmt: skip


def _json(text: bytes | str, refusal: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{refusal}: invalid JSON ({error})") from error


def payload_of(message: Any) -> Any:
    """Return the payload of a parsed value with or without a schema. Kafka Connect's JsonConverter adds schemas."""
    with_schema = isinstance(message, dict) and message.keys() == {"schema", "payload"}
    return message["payload"] if with_schema else message


def context_member(context: Mapping[str, Any], *, as_text: bool) -> bytes:
    """Return the JSON of the transaction context in a message.

    ``as_text``: as a text that holds the object, because Connect has no schema for an object with arbitrary members.
    """
    value = orjson.dumps(context)
    return orjson.dumps(value.decode()) if as_text else value


def transaction_value(event: TransactionEvent, *, context_as_text: bool = False) -> bytes:
    """Return the value of a BEGIN or END message. Its key is ``{"id": …}``."""
    collections = event.data_collections
    value: dict[str, Any] = {
        "status": event.status,
        "id": event.id,
        "ts_ms": event.ts_ms,
        "event_count": event.event_count if event.status == "END" else None,
        "data_collections": None
        if collections is None
        else [{"data_collection": name, "event_count": n} for name, n in collections.items()],
        "lsn": event.lsn,
    }
    if event.context is not None:
        value["context"] = orjson.Fragment(context_member(event.context, as_text=context_as_text))
    if event.timeline != 1:
        value["timeline"] = event.timeline
    return orjson.dumps(value)
