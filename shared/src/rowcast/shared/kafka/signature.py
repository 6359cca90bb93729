"""Sign the messages of the schema topic and of the transaction topic with a shared key, and check the signatures.

The signature is an HMAC over topic, key and value, in a header. So a signed message cannot be moved to another topic.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from pydantic import SecretStr

from rowcast.shared.errors import DataError
from rowcast.shared.kafka.topic_names import schema_topic, transaction_topic

HEADER = "rowcast-signature"

Message: TypeAlias = Any
"""The arguments of ``Producer.produce``: topic, value, key and partition, and perhaps callbacks, time and headers."""


def _digest(secret: bytes, topic: str, key: bytes, value: bytes) -> bytes:
    # The lengths keep the parts apart.
    head = f"{len(topic)} {len(key)} {topic}".encode()
    return hmac.digest(secret, head + key + value, "sha256")


class Signer:
    """Sign messages of two topics of a source with the first of the keys. Without keys, change nothing."""

    def __init__(self, source: str, keys: Sequence[SecretStr]) -> None:
        self._topics = (schema_topic(source), transaction_topic(source))
        self._secret = keys[0].get_secret_value().encode() if keys else None

    def signed(self, messages: Iterable[Message]) -> Iterable[Message]:
        """Return the messages, with a header for each message to sign."""
        return messages if self._secret is None else self._with_headers(self._secret, messages)

    def _with_headers(self, secret: bytes, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            topic, value, key, partition = message[:4]
            if topic not in self._topics or value is None:
                yield message
                continue
            headers = message[7] if len(message) > 4 else ()
            header = HEADER, _digest(secret, topic, key, value)
            yield topic, value, key, partition, None, None, 0, [*headers, header]


class SignatureCheck:
    """Check messages against all keys, because the key may change. Without keys, accept every message."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        self._secrets = [key.get_secret_value().encode() for key in keys]

    @property
    def are_needed(self) -> bool:
        """Return whether each message must have a signature."""
        return bool(self._secrets)

    def check(self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] | None) -> None:
        """Raise DataError if the message is not signed, or not with one of the keys."""
        if not self._secrets:
            return
        found = [content for name, content in headers or () if name == HEADER]
        if not found:
            raise DataError(
                "the message has no signature, and signature_keys is set. Give the relay the same signature_keys. A "
                "source that has published without them cannot begin with signatures: docs/how-to/tls-sasl.md. "
                "Otherwise look for another program that writes to the topic."
            )
        # Each comparison takes the same time for every signature.
        matches = [hmac.compare_digest(_digest(s, topic, key or b"", value), found[-1]) for s in self._secrets]
        if len(found) > 1 or not any(matches):
            raise DataError(
                "the message has a signature of another key. Add the relay's key to signature_keys. If it is there, "
                "look for another program that writes to the topic."
            )
