"""Take the BEGINs and ENDs of the transaction topic.

A source with small transactions has more of them than events. Therefore usual ones are taken in blocks, without a line
of Python for each BEGIN. The messages of a block with anything unusual are taken singly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, compress, islice, repeat
from operator import attrgetter, eq, itemgetter, lt, methodcaller
from typing import Any

from rowcast.consumer.events.position import Position
from rowcast.consumer.events.source_notes import other_timeline
from rowcast.consumer.reading.by_key_events import ByKeyEvents
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.cutover import Cutover
from rowcast.consumer.reading.lsn_rules import LsnRules, record_mark, record_marks
from rowcast.consumer.reading.new_shapes import NewShapes
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.signed_messages import take_signed
from rowcast.consumer.reading.transaction_assembler import End, TransactionAssembler
from rowcast.shared.kafka.messages import UsualEventCount, parse_transaction, read_transactions
from rowcast.shared.kafka.signature import SignatureCheck

_BLOCK_MESSAGES = 500
# A smaller block costs more than its messages taken singly.
_MIN_BLOCK = 4

_value_of, _offset_of = methodcaller("value"), methodcaller("offset")
_before_colon, _first_of = methodcaller("partition", ":"), itemgetter(0)
_members_of = attrgetter("status", "id", "lsn", "ts_ms", "timeline", "data_collections")


class TransactionRecords:
    """Take the records of one reader. The parameters are shared with the router."""

    def __init__(
        self, context: ReaderContext, cutover: Cutover, assembler: TransactionAssembler, rules: LsnRules,
        shapes: NewShapes, by_key_events: ByKeyEvents,
    ) -> None:  # fmt: skip
        self._layouts = context.layouts
        self._timeline = context.timeline
        self._signatures = SignatureCheck(context.settings.signature_keys)
        self._cutover = cutover
        self._assembler = assembler
        self._rules = rules
        self._shapes = shapes
        self._by_key_events = by_key_events

    def take(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        """Take the next messages of ``stream``. Raise BadMessageError after the messages before a bad message."""
        for start in range(0, len(messages), _BLOCK_MESSAGES):
            block = messages[start : start + _BLOCK_MESSAGES]
            if not self._take_block(stream, block):
                take_signed(stream, block, self._signatures, partial(self._take_single, stream))

    def _take_block(self, stream: PartitionStream, messages: Sequence[Any]) -> bool:
        """Take the messages at once. Return False without taking any if they must be taken singly."""
        values = list(map(_value_of, messages))
        if len(messages) < _MIN_BLOCK or self._signatures.are_needed or None in values:
            return False
        records = read_transactions(values)
        if records is None:
            return False
        statuses, ids, lsns, times, timelines, collections = zip(*map(_members_of, records), strict=True)
        counts = list(map(_counts, collections))
        if not self._are_usual(stream, lsns) or not self._are_known(timelines, counts):
            return False
        identities = list(map(_first_of, map(_before_colon, ids)))
        stream.memory.add(lsns, record_marks(statuses, identities))
        stream.memory.bound()
        stream.lsn = lsns[-1]
        self._rules.note(lsns[-1])
        self._cutover.begun_transaction = identities[-1] if statuses[-1] == "BEGIN" else None
        ends = zip(lsns, identities, times, counts, map(_offset_of, messages), strict=True)
        for end in compress(ends, map(eq, statuses, repeat("END"))):
            self._take_end(stream, End(*end))
        return True

    def _are_usual(self, stream: PartitionStream, lsns: Sequence[int]) -> bool:
        """Return whether the lsns grow from above all lsns before."""
        return (
            lsns[0] > stream.lsn
            and lsns[0] >= self._layouts.notes.first_lsn
            and self._rules.allow(lsns[0], lsns[-1])
            and all(map(lt, lsns, islice(lsns, 1, None)))
        )

    def _are_known(self, timelines: Sequence[int | None], counts: Sequence[Mapping[str, int]]) -> bool:
        """Return whether the messages are of the replica's timeline or an earlier one, and every table has a shape."""
        return max(filter(None, timelines), default=0) <= self._timeline and all(
            map(self._layouts.is_known, set(chain.from_iterable(counts)))
        )

    def _take_single(self, stream: PartitionStream, value: bytes, offset: int) -> None:
        event = parse_transaction(value)
        # Messages of earlier timelines have smaller lsns, and are left out.
        if event.timeline > self._timeline:
            raise other_timeline(self._timeline, event.timeline)
        if event.lsn < self._layouts.notes.first_lsn:
            return
        if event.lsn <= stream.lsn:
            self._rules.require_repetition(stream, event, offset)
            return
        self._rules.require_plausible(event)
        self._shapes.require(event)
        identity = event.id.partition(":")[0]
        stream.memory.remember(event.lsn, record_mark(event))
        stream.lsn = event.lsn
        if event.status == "BEGIN":
            self._cutover.begun_transaction = identity
            return
        self._cutover.begun_transaction = None
        self._take_end(stream, End(event.lsn, identity, event.ts_ms, event.data_collections or {}, offset))

    def _take_end(self, stream: PartitionStream, end: End) -> None:
        # While events go by key, the END is kept too: the cutover may come before its events.
        if not self._cutover.by_key and self._cutover.includes(end.lsn, end.transaction):
            self._by_key_events.positions[stream.partition] = Position(end.offset + 1, end.lsn)
        else:
            self._assembler.add_end(end, stream.partition)


def _counts(collections: Sequence[UsualEventCount] | None) -> Mapping[str, int]:
    """Return the number of events by table."""
    if not collections:
        return _NONE
    return {one.data_collection: one.event_count for one in collections if one.event_count}


_NONE: Mapping[str, int] = {}
