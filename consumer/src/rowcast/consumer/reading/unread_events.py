"""Take unreadable events, and let them go to the dead letter topic instead of stopping the worker."""

from __future__ import annotations

from typing import Any

import orjson

from rowcast.consumer.events.change import MAX_NUMBER, Change
from rowcast.consumer.events.dead_letter import UnreadEvent, plain_row_key
from rowcast.consumer.events.position import Partition
from rowcast.consumer.events.tombstone import key_columns
from rowcast.consumer.events.transactions import Transaction
from rowcast.consumer.reading.context import ReaderContext
from rowcast.consumer.reading.cutover import Cutover
from rowcast.consumer.reading.lsn_rules import LsnRules
from rowcast.consumer.reading.partition_stream import PartitionStream
from rowcast.consumer.reading.topic_history import TopicHistory
from rowcast.consumer.reading.transaction_assembler import TransactionAssembler
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import payload_of
from rowcast.shared.tables.shape import TableShape


class UnreadEvents:
    """Find out what an unreadable event belongs to. The parameters are shared with the router.

    An event of a known transaction waits for the END, which counts it. Any other event is returned by ``pop`` at once.
    """

    def __init__(
        self, context: ReaderContext, cutover: Cutover, assembler: TransactionAssembler, rules: LsnRules,
        history: TopicHistory,
    ) -> None:  # fmt: skip
        self._is_active = context.sets_unread_aside
        self._layouts = context.layouts
        self._topic_of = context.settings.topic_of
        self._skipped = context.skips.transactions
        self._cutover = cutover
        self._assembler = assembler
        self._rules = rules
        self._history = history
        self._found: list[UnreadEvent] = []

    def take(self, stream: PartitionStream, message: Any, error: DataError) -> bool:
        """Take a message of a table topic. Return False if it must stop the worker.

        The worker stops before a truncate, and at a table without a shape, because more than a row is at fault.
        """
        members = _members(message.value())
        shape = self._shape(stream.partition[0], members)
        if not self._is_active or shape is None or members.get("op") == "t":
            return False
        lsn, transaction = _lsn(members), _transaction(members)
        if lsn > self._rules.limit:
            return False
        is_by_key = self._cutover.by_key or (lsn > 0 and self._cutover.includes(lsn, transaction))
        if 0 < lsn < self._history.first_lsn(stream) or (0 < lsn <= stream.lsn and not is_by_key):
            return True  # The event was sent twice, or a later snapshot has published its row again.
        unread = _unread(stream, message, shape, lsn or stream.lsn, transaction, error)
        stream.lsn = max(stream.lsn, lsn)
        if transaction in self._skipped and transaction is not None:
            self._assembler.leave_out(self._placeholder(unread, shape))
        elif is_by_key or not lsn or transaction is None:
            self._found.append(unread)
        else:
            self._assembler.leave_out_unread(self._placeholder(unread, shape), unread)
        return True

    def pop(self) -> list[Transaction]:
        """Return the events that belong to no known transaction. They have no positions.

        Earlier events of the partition may not have been applied, so the position moves with a later event.
        """
        found, self._found = self._found, []
        return [Transaction(None, 0, 0, by_key=self._cutover.by_key, unread=found)] if found else []

    def _shape(self, topic: str, members: dict[str, Any]) -> TableShape | None:
        """Return the shape of the table that the event names, or of the only table of the topic."""
        shapes = [s for s in self._layouts.latest_shapes() if self._topic_of(s.schema, s.name) == topic]
        source = members.get("source")
        if isinstance(source, dict) and "table" in source:
            named = [s for s in shapes if (s.schema, s.name) == (source.get("schema"), source["table"])]
            return named[0] if named else None
        return shapes[0] if len(shapes) == 1 else None

    def _placeholder(self, unread: UnreadEvent, shape: TableShape) -> Change:
        """Return a change for the assembler to count and never to apply."""
        layout = self._layouts.infer(shape.full_name, "", shape.primary_key)
        return Change(
            layout, unread.key or b"{}", None, unread.lsn, unread.transaction, 0, unread.partition, unread.offset
        )  # fmt: skip


def _unread(
    stream: PartitionStream, message: Any, shape: TableShape, lsn: int, transaction: str | None, error: DataError
) -> UnreadEvent:
    columns = None if message.key() is None else key_columns(message.key())
    key = None
    if columns is not None and columns.keys() == set(shape.primary_key):
        _, key = plain_row_key(shape.full_name, orjson.dumps(columns))
    partition: Partition = stream.partition
    return UnreadEvent(partition, message.offset(), lsn, transaction, shape.full_name, key, error)


def _members(value: bytes | None) -> dict[str, Any]:
    """Return the members of an envelope, or an empty dictionary if the message is no JSON object."""
    try:
        document = payload_of(orjson.loads(value or b""))
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _lsn(members: dict[str, Any]) -> int:
    source = members.get("source")
    lsn = source.get("lsn") if isinstance(source, dict) else None
    return lsn if type(lsn) is int and 0 < lsn <= MAX_NUMBER else 0


def _transaction(members: dict[str, Any]) -> str | None:
    transaction = members.get("transaction")
    identity = transaction.get("id") if isinstance(transaction, dict) else None
    return identity.partition(":")[0] if isinstance(identity, str) and identity else None
