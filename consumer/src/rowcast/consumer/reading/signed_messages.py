"""Take the messages of a signed topic one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rowcast.consumer.reading.bad_message import BadMessageError
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.signature import SignatureCheck


def take_signed(
    stream: PartitionStream,
    messages: Sequence[Any],
    signatures: SignatureCheck,
    take: Callable[[bytes, int], None],
) -> None:
    """Call ``take`` with value and offset of each message with a value, after the check of the signature.

    Raise BadMessageError for a refused message, after the messages before it.
    """
    for message in messages:
        value = message.value()
        if value is None:
            continue
        try:
            signatures.check(stream.partition[0], message.key(), value, message.headers())
            take(value, message.offset())
        except DataError as error:
            raise BadMessageError(message.offset(), error) from error
