"""Take the messages of table topics: by key into the merge, else into the assembler.

Usual messages are taken in blocks. The messages of a block with anything unusual are taken singly.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import compress, islice, repeat
from operator import is_not, lt, methodcaller
from typing import Any

from rowcast.consumer.events.change import Change, lsn_of, read_change, transaction_of
from rowcast.consumer.events.change_block import read_block
from rowcast.consumer.reading.bad_message import BadMessageError
from rowcast.consumer.reading.by_key_events import ByKeyEvents
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.cutover import Cutover
from rowcast.consumer.reading.lsn_rules import LsnRules, event_marks
from rowcast.consumer.reading.new_shapes import NewShapes
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.single_events import SingleEvents
from rowcast.consumer.reading.topic_history import TopicHistory
from rowcast.consumer.reading.transaction_assembler import TransactionAssembler
from rowcast.shared.errors import DataError

_log = logging.getLogger("rowcast.worker")

_value_of = methodcaller("value")

_BLOCK_MESSAGES = 500
# The messages of a topic in another form than the relay's would otherwise be parsed twice.
_BLOCKS_TAKEN_SINGLY = 9


class TableEvents:
    """Take the messages of one reader. The parameters are shared with the router."""

    def __init__(
        self, context: ReaderContext, cutover: Cutover, assembler: TransactionAssembler, rules: LsnRules,
        shapes: NewShapes,
    ) -> None:  # fmt: skip
        self._layouts = context.layouts
        self._skips = context.skips
        self._cutover = cutover
        self._assembler = assembler
        self._rules = rules
        self.by_key_events = ByKeyEvents(context, cutover, rules)
        self.history = TopicHistory(context.layouts, cutover, assembler)
        self._single_events = SingleEvents(context, cutover, self.history, rules, shapes)

    def take(self, stream: PartitionStream, messages: Sequence[Any]) -> None:
        """Take the next messages of ``stream``. Raise BadMessageError after the messages before a bad message."""
        self.history.add(stream)
        for start in range(0, len(messages), _BLOCK_MESSAGES):
            block = messages[start : start + _BLOCK_MESSAGES]
            if not self._take_block(stream, block):
                self._single_events.take(stream, block, self._assembler, self.by_key_events)
            stream.last_message = block[-1]

    def _take_block(self, stream: PartitionStream, messages: Sequence[Any]) -> bool:
        """Take the messages at once. Return False without taking any if the messages must be taken singly."""
        if self._skips.transactions or self._cutover.is_under_way:
            return False
        if stream.blocks_to_take_singly:
            stream.blocks_to_take_singly -= 1
            return False
        values = list(map(_value_of, messages))
        has_tombstones = None in values
        events = list(compress(messages, map(is_not, values, repeat(None)))) if has_tombstones else messages
        if not events:
            return False
        changes = read_block(events, stream.partition, self._layouts)
        if changes is None:
            stream.blocks_to_take_singly = _BLOCKS_TAKEN_SINGLY
            return False
        if not self._is_usual(stream, changes):
            return False
        first, last = changes[0], changes[-1]
        if self._cutover.by_key:
            if not has_tombstones:
                self.by_key_events.merge.add(stream, changes)
            elif not self._add_with_tombstones(stream, messages, changes):
                return False
        else:
            stream.memory.add(map(lsn_of, changes), event_marks(changes))
            self._assembler.add_run(changes)
        self.history.note(stream, first, last)
        self._rules.note(last.lsn)
        return True

    def _add_with_tombstones(self, stream: PartitionStream, messages: Sequence[Any], changes: list[Change]) -> bool:
        """Add the changes and tombstones of a block by key. Return False, and add none, if a tombstone is not valid."""
        try:
            tombstones, deletes = self.by_key_events.add_tombstones(stream, messages, changes)
        except BadMessageError:
            return False
        self.by_key_events.merge.add(stream, changes, tombstones, deletes)
        return True

    def _is_usual(self, stream: PartitionStream, changes: Sequence[Change]) -> bool:
        """Return whether the lsns grow from above all lsns before, and no event belongs to the cutover."""
        lsns = list(map(lsn_of, changes))
        if not self.history.floor(stream) < lsns[0] or not self._rules.allow(lsns[0], lsns[-1]):
            return False
        cutover = self._cutover
        if not cutover.by_key and (
            lsns[0] <= cutover.lsn
            or (cutover.transaction is not None and cutover.transaction in map(transaction_of, changes))
        ):
            return False
        return all(map(lt, lsns, islice(lsns, 1, None)))

    def without_skipped(self, stream: PartitionStream, messages: Sequence[Any]) -> Sequence[Any]:
        """Leave out the messages that ``--skip`` names. The END of the transaction still counts the messages."""
        offsets = self._skips.offsets(stream.partition)
        skipped = [message for message in messages if message.offset() in offsets] if offsets else []
        for message in skipped:
            _log.warning("%s is left out, because --skip names it", stream.where(message.offset()))
            if stream.kind == "table" and message.value() is not None and not self._cutover.by_key:
                self._leave_out(stream, message)
        return [message for message in messages if message.offset() not in offsets] if skipped else messages

    def _leave_out(self, stream: PartitionStream, message: Any) -> None:
        try:
            change = read_change(message.key(), message.value(), stream.partition, message.offset(), self._layouts)
        except DataError:
            return  # Nothing is known of the transaction. The transaction then lacks an event.
        if change is not None and change.lsn > stream.lsn:
            self._assembler.leave_out(change)
