"""Replace the values of masked columns. Equal values have equal masked values, on every replica with the same key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import INTEGER_TYPES, ColumnShape, Masking, PortableType

_HASH_DIGITS = 64
_FINGERPRINT_DIGITS = 12
# Every engine writes the values of these types in a single form.
_HASHED_TYPES = frozenset(("string", "text", "bytes", "date", "uuid", "enum", *INTEGER_TYPES))
_TEXT_TYPES = frozenset(("string", "text"))


@dataclass(frozen=True, slots=True)
class Mask:
    """The mask of a column.

    ``recorded``: the mask in the record of the view, with the key's fingerprint in place of the key. ``apply``: returns
    the masked value of a JSON value. ``shape``: the column of the replica, under the name at the source.
    """

    recorded: str
    apply: Callable[[Any], Any]
    shape: ColumnShape


def mask_of(text: str, column: ColumnShape, key: bytes | None) -> Mask:
    """Return the mask named in the configuration. ``key``: the secret key of the replica.

    Raise ConfigurationError if the mask does not fit the column.
    """
    kind, _, value = text.partition(":")
    masked = replace(column, identity=None, default=None, generated=False)
    if kind == "null":
        if not column.nullable:
            raise ConfigurationError(f"column {column.name} is NOT NULL, so the mask null is not possible. Use fixed:")
        return Mask(text, lambda _: None, replace(masked, masking=Masking(mask="NULL")))
    if kind == "fixed":
        shape = replace(masked, type=PortableType("text"), masking=Masking(mask=value))
        return Mask(text, lambda _: value, shape)
    if kind == "prefix":
        _require_type(column, _TEXT_TYPES, text)
        count = int(value)
        shape = replace(masked, masking=Masking(truncate=count))
        return Mask(text, lambda found: None if found is None else str(found)[:count], shape)
    _require_type(column, _HASHED_TYPES, text)
    assert key is not None, "the settings require a key"
    shape = replace(masked, type=PortableType("string", _HASH_DIGITS), masking=Masking(hash="sha256"))
    return Mask(f"hash:{_fingerprint(key)}", _digest_by(key), shape)


def _require_type(column: ColumnShape, types: frozenset[str], mask: str) -> None:
    if column.type.name not in types:
        raise ConfigurationError(
            f"column {column.name} has the type {column.type.name}, which the mask {mask} does not take. Use null, "
            "fixed: or leave the column out"
        )


def _digest_by(key: bytes) -> Callable[[Any], str | None]:
    def digest(value: Any) -> str | None:
        # A number and its text have one digest, because both have one text in the topic.
        return None if value is None else hmac.new(key, str(value).encode(), hashlib.sha256).hexdigest()

    return digest


def _fingerprint(key: bytes) -> str:
    """Return a fingerprint of the key, to notice a replica with digests of two keys."""
    return hmac.new(key, b"rowcast view", hashlib.sha256).hexdigest()[:_FINGERPRINT_DIGITS]
