"""Decode messages with schemas, as Kafka Connect's JsonConverter writes them, to the plain form.

The decoders of a message are found from the schema in the message, once for each schema. So a topic may hold messages
of several schemas, mixed with plain messages.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import orjson

from rowcast.shared import row_values
from rowcast.shared.errors import DataError
from rowcast.shared.kafka import connect_values
from rowcast.shared.kafka.messages import payload_of

WITH_SCHEMA = b'{"schema":'

# Inside a schema, the text "payload" can only be a member's value, and no colon follows a value.
_PAYLOAD = b',"payload":'
_CACHED_SCHEMAS = 10_000

_Decoder = Callable[[Any], Any]
_Decoders = tuple[tuple[str, _Decoder], ...]


def plain_message(key: bytes | None, value: bytes) -> tuple[bytes | None, bytes]:
    """Return key and value of a table's event without schemas. Raise DataError if a schema is missing."""
    if key is None:
        raise DataError("not a change event: the message has no key")
    try:
        key_schema, key = split_schema(key)
        schema, value = split_schema(value)
        key_decoders, row_decoders = _key_decoders(key_schema), _row_decoders(schema)
        if key_decoders:
            key = orjson.dumps(_decode(orjson.loads(key), key_decoders))
        if row_decoders:
            envelope = orjson.loads(value)
            envelope["before"] = None  # The worker does not use the before image.
            envelope["after"] = _decode(envelope["after"], row_decoders)
            value = orjson.dumps(envelope)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"not a message with a schema in Kafka Connect's form: {row_values.value_error(error)}"
        ) from error
    return key, value


def plain_key(key: bytes) -> bytes:
    """Return the key of a tombstone without its schema. Raise DataError if the schema is invalid."""
    try:
        schema, key = split_schema(key)
        decoders = _key_decoders(schema)
        return orjson.dumps(_decode(orjson.loads(key), decoders)) if decoders else key
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"not a key with a schema in Kafka Connect's form: {error!r}") from error


def split_schema(message: bytes) -> tuple[bytes, bytes]:
    """Return schema and payload of a message. Raise ValueError or KeyError if it has another form."""
    at = message.find(_PAYLOAD)
    if message.startswith(WITH_SCHEMA) and at > 0 and message[-1:] == b"}":
        return message[len(WITH_SCHEMA) : at], message[at + len(_PAYLOAD) : -1]
    # Another program may write white space, or the members in another order.
    parsed = orjson.loads(message)
    return orjson.dumps(parsed["schema"]), orjson.dumps(payload_of(parsed))


@lru_cache(_CACHED_SCHEMAS)
def _key_decoders(schema: bytes) -> _Decoders:
    return _decoders(orjson.loads(schema))


@lru_cache(_CACHED_SCHEMAS)
def _row_decoders(schema: bytes) -> _Decoders:
    return next(_decoders(field) for field in orjson.loads(schema)["fields"] if field["field"] == "after")


def _decoders(struct: dict[str, Any]) -> _Decoders:
    found = ((field["field"], _decoder(field)) for field in struct["fields"])
    return tuple((name, decoder) for name, decoder in found if decoder is not None)


def _decoder(field: dict[str, Any]) -> _Decoder | None:
    """Return the decoder of a field, or None if the plain format has an equal value."""
    parameters = field.get("parameters") or {}
    digits = int(parameters.get(connect_values.DIGITS, 0))
    match field.get("name"):
        case connect_values.DATE:
            return connect_values.date_text
        case connect_values.TIME:
            return partial(connect_values.time_text, digits=digits)
        case connect_values.TIMESTAMP:
            return partial(connect_values.timestamp_text, digits=digits)
        case connect_values.DECIMAL if connect_values.NUMBER in parameters:
            return lambda value: int(connect_values.decimal_text(value, 0))
        case connect_values.DECIMAL:
            return partial(connect_values.decimal_text, scale=int(parameters["scale"]))
        case connect_values.VARIABLE_DECIMAL:
            return lambda value: connect_values.decimal_text(value["value"], value["scale"])
    return None


def _decode(row: dict[str, Any] | None, decoders: _Decoders) -> dict[str, Any] | None:
    if row is not None:
        for name, decode in decoders:
            value = row[name]
            if value is not None:
                row[name] = decode(value)
    return row
