"""Turn claimed rows into messages: BEGIN, change events, tombstones and END, with their lsns.

An envelope is concatenated from bytes. The bytes common to all changes of a table are built once. The row image is
copied from the outbox.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import TypeAlias

import msgspec
import orjson

from rowcast.producer.outbox.context_parser import Headers
from rowcast.producer.outbox.line_parser import Change, LineHead
from rowcast.producer.relay.claims.claim_table import Claim
from rowcast.producer.relay.messages.batch_rows import ParsedRow
from rowcast.producer.relay.messages.connect_schemas import TRANSACTION_FRAME, Frame, table_frame
from rowcast.producer.relay.messages.table_versions import TableVersions
from rowcast.shared.kafka.messages import TOMBSTONE_LSN, TransactionEvent, context_member, transaction_value
from rowcast.shared.kafka.topic_names import transaction_topic

_BareMessage: TypeAlias = tuple[str, bytes | None, bytes, int]
Message: TypeAlias = _BareMessage | tuple[str, bytes | None, bytes, int, None, None, int, Headers]
"""The arguments of ``Producer.produce``: topic, value, key and partition (-1: chosen by key).

A message with headers also has two callbacks, which are None, a time stamp, which is 0 (set by the producer), and the
headers.
"""

_TableBytes: TypeAlias = tuple[str, bytes, bytes, Frame | None]
"""What all events with the same line head share: the topic, the bytes between ``source.ts_ms`` and ``txId``, the bytes
between ``lsn`` and ``ts_ms``, and the frame of schemas around key and value."""

BY_KEY = -1
_TRANSACTION_PARTITION = 0
_SET_BY_PRODUCER = 0


class Envelopes:
    """Build the messages of one source. ``schemas``: put a schema before each payload, as Kafka Connect does.

    ``timeline``: the present timeline of the source.
    """

    def __init__(self, source: str, database: str, tables: TableVersions, *, schemas: bool = False) -> None:
        self._tables = tables
        self._schemas = schemas
        self._transaction_topic = transaction_topic(source)
        self._source = b',"source":{"version":%b,"connector":"rowcast","name":%b,"ts_ms":' % (
            orjson.dumps(version("rowcast")),
            orjson.dumps(source),
        )
        self._database = orjson.dumps(database)
        self._known: dict[LineHead, _TableBytes] = {}
        self.timeline = 1

    def claim_messages(self, claim: Claim, rows: Sequence[ParsedRow], now_ms: int) -> Iterator[Message]:
        """Yield all messages of a claim, in order. ``now_ms`` becomes the envelopes' own ``ts_ms``."""
        lsn = claim.first_lsn
        last: ParsedRow | None = None
        counts: dict[str, int] = {}
        for row in rows:
            if last is None or row.tx != last.tx:
                if last is not None:
                    yield self._end(last, lsn, counts)
                    lsn += 1
                if claim.carried_in is not None and claim.carried_in.tx == row.tx:
                    counts = dict(claim.carried_in.counts)
                else:
                    counts = {}
                    yield self._begin(row, lsn)
                    lsn += 1
            last = row
            events = self._events(row, lsn, counts, now_ms)
            yield from _with_headers(events, row.headers) if row.headers else events
            lsn += len(row.changes)
        if last is not None and claim.carried_out is None:
            yield self._end(last, lsn, counts)
            lsn += 1
        assert lsn == claim.last_lsn + 1, f"the claim is for lsns up to {claim.last_lsn}, its rows take {lsn - 1}"

    def chunk_messages(self, claim: Claim, changes: Sequence[Change], now_ms: int) -> Iterator[Message]:
        """Yield the messages of a snapshot's chunk: its rows, and then a transaction without events.

        The rows belong to no transaction. The empty transaction shows consumers that the chunk is complete.
        """
        assert claim.chunk is not None
        lsn = claim.first_lsn
        for message in self.chunk_rows(changes, lsn, now_ms):
            yield message
            lsn += 1
        name = f"snapshot-{claim.chunk.snapshot}-{lsn}"
        yield self._bare_boundary(TransactionEvent("BEGIN", name, now_ms, lsn))
        yield self._bare_boundary(TransactionEvent("END", name, now_ms, lsn + 1, 0, {}))
        assert lsn + 1 == claim.last_lsn, f"the claim is for lsns up to {claim.last_lsn}, its rows take {lsn + 1}"

    def chunk_rows(self, changes: Sequence[Change], lsn: int, now_ms: int) -> Iterator[Message]:
        """Yield an event for each row of a chunk, with lsns from ``lsn`` on. All rows are of one table."""
        last = None
        for head, key, after, _ in changes:
            if head is not last:
                last = head
                topic, middle, rest, frame = self._table_bytes(head)
                middle = b'%b%d%bnull,"lsn":' % (self._source, now_ms, middle)
                rest = b'%b%d,"transaction":null}' % (rest, now_ms)
            value = b'{"before":null,"after":%b%b%d%b' % (after or b"null", middle, lsn, rest)
            if frame is not None:
                value, key = frame.value(value), frame.key(key)
            yield topic, value, key, BY_KEY
            lsn += 1

    def schema_bytes(self, heads: Iterable[LineHead]) -> int:
        """Return the largest number of bytes that schemas add to a message with any of these heads."""
        if not self._schemas:
            return 0
        frames = (self._table_bytes(head)[3] for head in set(heads))
        return max((len(frame.value(b"")) + len(frame.key(b"")) for frame in frames if frame is not None), default=0)

    def row_events(self, row: ParsedRow, lsn: int, now_ms: int) -> Iterator[tuple[Change, Message]]:
        """Yield each change of an outbox row with its event, as if the lsns began at ``lsn``."""
        events = (message for message in self._events(row, lsn, {}, now_ms) if message[1] is not None)
        return zip(row.changes, _with_headers(events, row.headers) if row.headers else events, strict=True)

    def _events(self, row: ParsedRow, lsn: int, counts: dict[str, int], now_ms: int) -> Iterator[Message]:
        """Yield events and tombstones without the row's headers.

        ``counts``: the transaction's events by table, to be raised.
        """
        total = sum(counts.values())
        context = b"" if row.context is None else b',"context":' + context_member(row.context, as_text=self._schemas)
        tx = orjson.dumps(row.tx)
        seen: dict[LineHead, _TableBytes] = {}
        last = None
        for head, key, after, before in row.changes:
            if head is not last:
                last = head
                if (known := seen.get(head)) is None:
                    topic, middle, rest, frame = self._table_bytes(head)
                    middle = b'%b%d%b%b,"lsn":' % (self._source, row.ts_ms, middle, tx)
                    rest = b'%b%d,"transaction":{"id":%b,"total_order":' % (rest, now_ms, tx)
                    known = seen[head] = topic, middle, rest, frame
                topic, middle, rest, frame = known
            total += 1
            order = counts[head.table] = counts.get(head.table, 0) + 1
            if frame is not None and after is None:
                # Debezium's JDBC sink refuses a delete without a row. The key is a part of the row.
                before = before or key
            value = b'{"before":%b,"after":%b%b%d%b%d,"data_collection_order":%d%b}}' % (
                before or b"null", after or b"null", middle, lsn, rest, total, order, context,
            )  # fmt: skip
            if frame is not None:
                value, key = frame.value(value), frame.key(key)
            yield topic, value, key, BY_KEY
            if after is None:
                # A tombstone stays when compaction has removed its delete event.
                yield topic, None, key, BY_KEY, None, None, _SET_BY_PRODUCER, [(TOMBSTONE_LSN, b"%d" % lsn)]
            lsn += 1

    def _table_bytes(self, head: LineHead) -> _TableBytes:
        known = self._known.get(head)
        if known is None:
            table = self._tables.get(head)
            middle = b',"snapshot":"%b","db":%b,"schema":%b,"table":%b,"txId":' % (
                b"true" if head.op == "r" else b"false", self._database,
                orjson.dumps(table.schema), orjson.dumps(table.name),
            )  # fmt: skip
            rest = b',"origin":null,"shape":%b},"op":%b,"ts_ms":' % (
                orjson.dumps(head.version), orjson.dumps(head.op),
            )  # fmt: skip
            frame = table_frame(table.shape, table.topic) if self._schemas else None
            known = self._known[head] = table.topic, middle, rest, frame
        return known

    def _begin(self, row: ParsedRow, lsn: int) -> Message:
        """Return the BEGIN of the transaction with this first row."""
        return self._boundary(row, TransactionEvent("BEGIN", row.tx, row.ts_ms, lsn, context=row.context))

    def _end(self, row: ParsedRow, lsn: int, counts: dict[str, int]) -> Message:
        """Return the END of the transaction with this last row."""
        total = sum(counts.values())
        return self._boundary(row, TransactionEvent("END", row.tx, row.ts_ms, lsn, total, counts, row.context))

    def _boundary(self, row: ParsedRow, event: TransactionEvent) -> Message:
        message = self._bare_boundary(event)
        return next(_with_headers([message], row.headers)) if row.headers else message

    def _bare_boundary(self, event: TransactionEvent) -> _BareMessage:
        event = msgspec.structs.replace(event, timeline=self.timeline)
        value, key = transaction_value(event, context_as_text=self._schemas), orjson.dumps({"id": event.id})
        if self._schemas:
            value, key = TRANSACTION_FRAME.value(value), TRANSACTION_FRAME.key(key)
        return self._transaction_topic, value, key, _TRANSACTION_PARTITION


def _with_headers(messages: Iterable[Message], headers: Headers) -> Iterator[Message]:
    for message in messages:
        own = message[7] if len(message) > 4 else ()
        yield (*message[:4], None, None, _SET_BY_PRODUCER, [*own, *headers])
