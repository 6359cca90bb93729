"""Signatures change with every part of a message, and any of several keys is accepted."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from rowcast.shared.errors import DataError
from rowcast.shared.kafka.signature import HEADER, SignatureCheck, Signer

OLD, NEW, OTHER = (SecretStr(letter * 16) for letter in "onx")
TRANSACTIONS = "shop.transaction"
HEADERS = (("traceparent", b"00"),)


def signed(topic: str = TRANSACTIONS, key: bytes = b"k", value: bytes | None = b"v") -> list[tuple[str, bytes]]:
    message = (topic, value, key, 0, None, None, 0, HEADERS)
    ((_, _, _, _, *rest),) = Signer("shop", [NEW, OLD]).signed([message])
    return list(rest[3])


def test_only_the_messages_of_the_two_topics_are_signed() -> None:
    assert [name for name, _ in signed()] == ["traceparent", HEADER]
    assert [name for name, _ in signed("shop.schema")] == ["traceparent", HEADER]
    assert signed("shop.public.orders") == signed(value=None) == list(HEADERS)
    plain = [(TRANSACTIONS, b"v", b"k", 0)]
    assert list(Signer("shop", []).signed(plain)) == plain
    ((*_, headers),) = Signer("shop", [NEW]).signed(plain)
    assert [name for name, _ in headers] == [HEADER]


@pytest.mark.parametrize("keys", [[NEW], [OLD, NEW], [OTHER, NEW]])
def test_each_accepted_key_verifies(keys: list[SecretStr]) -> None:
    SignatureCheck(keys).check(TRANSACTIONS, b"k", b"v", signed())


def test_without_keys_everything_is_accepted() -> None:
    SignatureCheck([]).check(TRANSACTIONS, b"k", b"v", None)
    SignatureCheck([]).check(TRANSACTIONS, b"k", b"v", [(HEADER, b"x")])


@pytest.mark.parametrize(
    ("topic", "key", "value"),
    [("shop.schema", b"k", b"v"), (TRANSACTIONS, b"kv", b""), (TRANSACTIONS, b"", b"kv"), (TRANSACTIONS, b"k", b"w")],
)
def test_a_signature_is_for_one_message_in_one_topic(topic: str, key: bytes, value: bytes) -> None:
    with pytest.raises(DataError, match="signature of another key"):
        SignatureCheck([NEW]).check(topic, key, value, signed())


def test_what_is_not_signed_is_refused_with_the_next_step() -> None:
    with pytest.raises(
        DataError, match=r"has no signature.*Give the relay the same signature_keys.*cannot begin with signatures"
    ):
        SignatureCheck([NEW]).check(TRANSACTIONS, b"k", b"v", HEADERS)
    with pytest.raises(DataError, match=r"another key\. Add the relay's key"):
        SignatureCheck([OTHER]).check(TRANSACTIONS, b"k", b"v", signed())
    with pytest.raises(DataError, match="another key"):
        SignatureCheck([NEW]).check(TRANSACTIONS, b"k", b"v", [*signed(), *signed()])
