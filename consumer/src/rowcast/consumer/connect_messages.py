"""Messages that have their schemas with them, as Kafka Connect's JsonConverter writes them, in the plain form.

What is to be done with a table's messages is found out once, from the schema that is in them: so a topic may hold
messages of several schemas, and plain ones between them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import orjson

from rowcast.shared import connect
from rowcast.shared.errors import DataError
from rowcast.shared.events import payload_of

WITH_SCHEMA = b'{"schema":'

# In a schema, payload can only be a member's value, which no colon follows.
_PAYLOAD = b',"payload":'
_KNOWN = 10_000

_Decoder = Callable[[Any], Any]
_Decoders = tuple[tuple[str, _Decoder], ...]


def plain_message(key: bytes | None, value: bytes) -> tuple[bytes | None, bytes]:
    """Key and value of a table's event, without their schemas. Raises DataError if they are no such message."""
    if key is None:
        raise DataError("not a change event: it has no key")
    try:
        key_schema, key = _parted(key)
        schema, value = _parted(value)
        of_key, of_row = _key_decoders(key_schema), _row_decoders(schema)
        if of_key:
            key = orjson.dumps(_decoded(orjson.loads(key), of_key))
        if of_row:
            envelope = orjson.loads(value)
            envelope["before"] = None  # the worker has no use for it
            envelope["after"] = _decoded(envelope["after"], of_row)
            value = orjson.dumps(envelope)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not a message with a schema as Kafka Connect has it: {error!r}") from error
    return key, value


def _parted(message: bytes) -> tuple[bytes, bytes]:
    """Schema and payload."""
    at = message.find(_PAYLOAD)
    if message.startswith(WITH_SCHEMA) and at > 0 and message[-1:] == b"}":
        return message[len(WITH_SCHEMA) : at], message[at + len(_PAYLOAD) : -1]
    # Another program's white space, or order.
    parsed = orjson.loads(message)
    return orjson.dumps(parsed["schema"]), orjson.dumps(payload_of(parsed))


@lru_cache(_KNOWN)
def _key_decoders(schema: bytes) -> _Decoders:
    return _decoders(orjson.loads(schema))


@lru_cache(_KNOWN)
def _row_decoders(schema: bytes) -> _Decoders:
    return next(_decoders(field) for field in orjson.loads(schema)["fields"] if field["field"] == "after")


def _decoders(struct: dict[str, Any]) -> _Decoders:
    found = ((field["field"], _decoder(field)) for field in struct["fields"])
    return tuple((name, decoder) for name, decoder in found if decoder is not None)


def _decoder(field: dict[str, Any]) -> _Decoder | None:
    """None: the plain format has the same."""
    parameters = field.get("parameters") or {}
    digits = int(parameters.get(connect.DIGITS, 0))
    match field.get("name"):
        case connect.DATE:
            return connect.date_text
        case connect.TIME:
            return partial(connect.time_text, digits=digits)
        case connect.TIMESTAMP:
            return partial(connect.timestamp_text, digits=digits)
        case connect.DECIMAL if connect.NUMBER in parameters:
            return lambda value: int(connect.decimal_text(value, 0))
        case connect.DECIMAL:
            return partial(connect.decimal_text, scale=int(parameters["scale"]))
        case connect.VARIABLE_DECIMAL:
            return lambda value: connect.decimal_text(value["value"], value["scale"])
    return None


def _decoded(row: dict[str, Any] | None, decoders: _Decoders) -> dict[str, Any] | None:
    if row is not None:
        for name, decode in decoders:
            value = row[name]
            if value is not None:
                row[name] = decode(value)
    return row
