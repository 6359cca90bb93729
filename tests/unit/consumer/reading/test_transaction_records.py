"""BEGINs and ENDs that are taken in blocks have the effect of single ones, whatever is among them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.reading import new_shapes, transaction_records
from rowcast.consumer.reading.bad_message import BadMessageError
from rowcast.consumer.reading.by_key_events import ByKeyEvents
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.cutover import Cutover
from rowcast.consumer.reading.lsn_order import MAX_LEAP
from rowcast.consumer.reading.lsn_rules import LsnRules
from rowcast.consumer.reading.new_shapes import NewShapes
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.transaction_assembler import TransactionAssembler
from rowcast.consumer.reading.transaction_records import TransactionRecords
from rowcast.shared.config.settings import Settings
from rowcast.shared.kafka.messages import TransactionEvent, transaction_value
from support.kafka_source import column, shape
from support.memory_topics import Message

SETTINGS = Settings(source="shop", kafka={"bootstrap.servers": "memory"})
A = shape("a", column("n"))
PARTITION = ("shop.transaction", 0)

# A number of 10 or more is a fault of its own kind, or a form that only the full path reads.
kinds = st.lists(st.integers(0, 16), min_size=1, max_size=30)


def values(chosen: list[int]) -> list[bytes | None]:
    """Return the values of messages, each two of which are usually the BEGIN and END of a transaction."""
    found: list[bytes | None] = []
    lsn, before = 10, b""
    for number, kind in enumerate(chosen):
        lsn += 1 + kind % 3
        counts = {"public.a": kind % 3, "public.left_out": 1} if number % 2 else None
        status = "END" if number % 2 else "BEGIN"
        event = TransactionEvent(status, f"{number // 2}:{lsn}", number, lsn, sum((counts or {}).values()), counts)
        value = transaction_value(event)
        match kind:
            case 10:
                value = before or value  # Sent twice.
            case 11:
                value = value.replace(b'"lsn":%d' % lsn, b'"lsn":%d' % (2 * MAX_LEAP))
            case 12:
                value = value.replace(b"public.a", b"public.unknown")
            case 13:
                value = b'{"schema":null,"payload":%b}' % value
            case 14:
                value = value[:-3]
            case 15:
                value = value[:-1] + b',"timeline":9}'
            case 16:
                found.append(None)
                continue
        found.append(value)
        before = value
    return found


def outcome(chosen: list[int], min_block: int, *, by_key: bool, cutover_lsn: int, first_lsn: int) -> tuple[Any, ...]:
    """Return everything that the messages have changed, and the error."""
    layouts = RowLayouts(["public.a", "public.unknown"])
    layouts.add(A.version, A)
    layouts.notes.first_lsn = first_lsn
    context = ReaderContext(SETTINGS, layouts)
    cutover = Cutover(None, by_key=by_key)
    cutover.lsn = cutover_lsn
    assembler = TransactionAssembler(layouts.is_wanted)
    rules = LsnRules(SETTINGS, {})
    by_key_events = ByKeyEvents(context, cutover, rules)
    stream = PartitionStream(PARTITION, "transaction", 0)
    records = TransactionRecords(context, cutover, assembler, rules, NewShapes(context), by_key_events)
    messages = [Message(*PARTITION, offset, b"{}", value, 0, None) for offset, value in enumerate(values(chosen))]
    error = None
    with (
        patch.object(transaction_records, "_MIN_BLOCK", min_block),
        patch.object(transaction_records, "_BLOCK_MESSAGES", 7),
        patch.object(new_shapes, "read_shapes", lambda *_: None),
        patch.object(new_shapes, "new_asker", lambda *_: nullcontext()),
        patch("rowcast.consumer.reading.lsn_rules.was_sent_before", lambda *_: False),
    ):
        try:
            records.take(stream, messages)
        except BadMessageError as bad:
            error = (bad.offset, str(bad.error))
    memory = list(stream.memory._lsns), list(stream.memory._marks)
    ends = [(end, end.id, end.ts_ms, end.positions, end.event_counts, end.total) for end in assembler._ends]
    return error, stream.lsn, cutover.begun_transaction, by_key_events.positions, ends, memory, rules.limit


@pytest.mark.parametrize("by_key", [True, False])
@given(chosen=kinds, cutover_lsn=st.integers(0, 40), first_lsn=st.sampled_from([0, 0, 20]))
def test_a_block_has_the_effect_of_its_messages(
    by_key: bool, chosen: list[int], cutover_lsn: int, first_lsn: int
) -> None:
    found = [
        outcome(chosen, size, by_key=by_key, cutover_lsn=cutover_lsn, first_lsn=first_lsn) for size in (1, 1_000_000)
    ]
    assert found[0] == found[1]


def test_usual_messages_are_taken_in_blocks() -> None:
    with patch.object(transaction_records, "parse_transaction", side_effect=AssertionError):
        error, lsn, begun, _, ends, memory, _ = outcome([1] * 21, 1, by_key=False, cutover_lsn=0, first_lsn=0)
    assert (error, lsn, begun) == (None, 52, "10")
    assert [(identity, counts) for _, identity, _, _, counts, _ in ends] == [
        (str(n), {"public.a": 1}) for n in range(10)
    ]
    assert len(memory[0]) == 21
