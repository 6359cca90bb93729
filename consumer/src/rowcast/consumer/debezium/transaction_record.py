"""Read BEGIN and END of Debezium's transaction topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import orjson

from rowcast.consumer.debezium.event_reader import WRITTEN_BY_RELAY, transaction_identity
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import payload_of
from rowcast.shared.strict_form import Name, Number, StrictForm, checked

_NO_RECORD = "not a transaction record of Debezium"


class Begin(NamedTuple):
    """A BEGIN. ``identity``: the common part of the ids of all messages of the transaction."""

    identity: str


class End(NamedTuple):
    """An END. ``name``: the whole id, unchanged in a repeated record. ``counts``: events by table."""

    identity: str
    name: str
    ts_ms: int
    counts: Mapping[str, int]


class _Count(StrictForm):
    data_collection: Name
    event_count: Number


class _Record(StrictForm):
    status: Literal["BEGIN", "END"]
    id: Name
    ts_ms: Number = 0
    lsn: Any = None
    data_collections: list[_Count] | None = None


def read_record(value: bytes) -> Begin | End:
    """Return the BEGIN or END. Raise DataError if the message is neither."""
    try:
        document = payload_of(orjson.loads(value))
    except orjson.JSONDecodeError as error:
        raise DataError(f"{_NO_RECORD}: invalid JSON") from error
    record = checked(_Record.model_validate, document, _NO_RECORD, DataError)
    if record.lsn is not None:
        raise DataError(WRITTEN_BY_RELAY)
    identity = transaction_identity(record.id)
    if record.status == "BEGIN":
        return Begin(identity)
    counts = {one.data_collection: one.event_count for one in record.data_collections or ()}
    return End(identity, record.id, record.ts_ms, counts)
