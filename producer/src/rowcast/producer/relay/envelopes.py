"""From claimed rows to messages: BEGIN, change events, tombstones, END, with their lsns.

An envelope is put together from bytes: what is the same for all changes of a table is made once, the row image goes
in as the database wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import TypeAlias

import orjson

from rowcast.producer.relay.batches import BatchRow
from rowcast.producer.relay.claims import Claim
from rowcast.producer.relay.connect_schemas import TRANSACTION_FRAME, Frame, table_frame
from rowcast.producer.relay.contexts import Headers
from rowcast.producer.relay.lines import Change, LineHead
from rowcast.producer.relay.tables import Tables
from rowcast.shared.events import TransactionEvent, context_member, transaction_topic, transaction_value

_Plain: TypeAlias = tuple[str, bytes | None, bytes, int]
Message: TypeAlias = _Plain | tuple[str, bytes | None, bytes, int, None, None, int, Headers]
"""Topic, value, key, partition (-1: by key), in the order that the producer takes them; where there are headers, they
come after its callbacks and time stamp, which are left to it."""

_Part: TypeAlias = tuple[str, bytes, bytes, Frame | None]
"""Of a line head: the topic, what stands between ``source.ts_ms`` and ``txId``, and between ``lsn`` and ``ts_ms``, and
what stands around key and value."""

BY_KEY = -1
_OWN_TIME = 0


class Envelopes:
    """Makes the messages of one source. ``schemas``: each with its schema before it, as Kafka Connect has it."""

    def __init__(self, source: str, database: str, tables: Tables, *, schemas: bool = False) -> None:
        self._tables = tables
        self._schemas = schemas
        self._transaction_topic = transaction_topic(source)
        self._source = b',"source":{"version":%b,"connector":"rowcast","name":%b,"ts_ms":' % (
            orjson.dumps(version("rowcast")),
            orjson.dumps(source),
        )
        self._database = orjson.dumps(database)
        self._parts: dict[LineHead, _Part] = {}

    def messages(self, claim: Claim, rows: Sequence[BatchRow], now_ms: int) -> Iterator[Message]:
        """All that the claim publishes, in order. ``now_ms`` becomes the envelopes' own ``ts_ms``."""
        lsn = claim.first_lsn
        last: BatchRow | None = None
        counts: dict[str, int] = {}
        for row in rows:
            if last is None or row.tx != last.tx:
                if last is not None:
                    yield self._end(last, lsn, counts)
                    lsn += 1
                if claim.carried is not None and claim.carried.tx == row.tx:
                    counts = dict(claim.carried.counts)
                else:
                    counts = {}
                    yield self._boundary(row, TransactionEvent("BEGIN", row.tx, row.ts_ms, lsn, context=row.context))
                    lsn += 1
            last = row
            events = self._events(row, lsn, counts, now_ms)
            yield from _with_headers(events, row.headers) if row.headers else events
            lsn += len(row.changes)
        if last is not None and claim.unfinished is None:
            yield self._end(last, lsn, counts)
            lsn += 1
        assert lsn == claim.last_lsn + 1, f"the claim is for lsns up to {claim.last_lsn}, its rows take {lsn - 1}"

    def chunk(self, claim: Claim, changes: Sequence[Change], now_ms: int) -> Iterator[Message]:
        """A chunk of a snapshot: rows that belong to no transaction, then one without events, behind which consumers
        know that the rows are all there."""
        assert claim.chunk is not None
        lsn = claim.first_lsn
        for message in self.rows_read(changes, lsn, now_ms):
            yield message
            lsn += 1
        name = f"snapshot-{claim.chunk.snapshot}-{lsn}"
        for boundary in (
            TransactionEvent("BEGIN", name, now_ms, lsn), TransactionEvent("END", name, now_ms, lsn + 1, 0, {})
        ):  # fmt: skip
            yield self._plain_boundary(boundary)
        assert lsn + 1 == claim.last_lsn, f"the claim is for lsns up to {claim.last_lsn}, its rows take {lsn + 1}"

    def rows_read(self, changes: Sequence[Change], lsn: int, now_ms: int) -> Iterator[Message]:
        """Rows of one table's chunk, with lsns from ``lsn`` on."""
        last = None
        for head, key, after, _ in changes:
            if head is not last:
                last = head
                topic, middle, rest, frame = self._of_head(head)
                middle = b'%b%d%bnull,"lsn":' % (self._source, now_ms, middle)
                rest = b'%b%d,"transaction":null}' % (rest, now_ms)
            value = b'{"before":null,"after":%b%b%d%b' % (after or b"null", middle, lsn, rest)
            if frame is not None:
                value, key = frame.value(value), frame.key(key)
            yield topic, value, key, BY_KEY
            lsn += 1

    def schema_bytes(self, heads: Iterable[LineHead]) -> int:
        """How much longer their schemas make a message of one of these, at most."""
        if not self._schemas:
            return 0
        frames = (self._of_head(head)[3] for head in set(heads))
        return max((len(frame.value(b"")) + len(frame.key(b"")) for frame in frames if frame is not None), default=0)

    def events(self, row: BatchRow, lsn: int, now_ms: int) -> Iterator[tuple[Change, Message]]:
        """An outbox row's changes, each with its message as it would be with lsns from ``lsn`` on."""
        events = (message for message in self._events(row, lsn, {}, now_ms) if message[1] is not None)
        return zip(row.changes, _with_headers(events, row.headers) if row.headers else events, strict=True)

    def _events(self, row: BatchRow, lsn: int, counts: dict[str, int], now_ms: int) -> Iterator[_Plain]:
        total = sum(counts.values())
        context = b"" if row.context is None else b',"context":' + context_member(row.context, as_text=self._schemas)
        tx = orjson.dumps(row.tx)
        parts: dict[LineHead, _Part] = {}
        last = None
        for head, key, after, before in row.changes:
            if head is not last:
                last = head
                if (part := parts.get(head)) is None:
                    topic, middle, rest, frame = self._of_head(head)
                    middle = b'%b%d%b%b,"lsn":' % (self._source, row.ts_ms, middle, tx)
                    rest = b'%b%d,"transaction":{"id":%b,"total_order":' % (rest, now_ms, tx)
                    part = parts[head] = topic, middle, rest, frame
                topic, middle, rest, frame = part
            total += 1
            order = counts[head.table] = counts.get(head.table, 0) + 1
            if frame is not None and after is None:
                # Debezium's JDBC sink takes no delete without a row: it has its key at least.
                before = before or key
            value = b'{"before":%b,"after":%b%b%d%b%d,"data_collection_order":%d%b}}' % (
                before or b"null", after or b"null", middle, lsn, rest, total, order, context,
            )  # fmt: skip
            if frame is not None:
                value, key = frame.value(value), frame.key(key)
            yield topic, value, key, BY_KEY
            if after is None:
                yield topic, None, key, BY_KEY
            lsn += 1

    def _of_head(self, head: LineHead) -> _Part:
        part = self._parts.get(head)
        if part is None:
            table = self._tables.of(head)
            middle = b',"snapshot":"%b","db":%b,"schema":%b,"table":%b,"txId":' % (
                b"true" if head.op == "r" else b"false", self._database,
                orjson.dumps(table.schema), orjson.dumps(table.name),
            )  # fmt: skip
            rest = b',"origin":null,"shape":%b},"op":%b,"ts_ms":' % (
                orjson.dumps(head.version), orjson.dumps(head.op),
            )  # fmt: skip
            frame = table_frame(table.shape, table.topic) if self._schemas else None
            part = self._parts[head] = table.topic, middle, rest, frame
        return part

    def _end(self, row: BatchRow, lsn: int, counts: dict[str, int]) -> Message:
        """Of the transaction whose last row this is."""
        total = sum(counts.values())
        return self._boundary(row, TransactionEvent("END", row.tx, row.ts_ms, lsn, total, counts, row.context))

    def _boundary(self, row: BatchRow, event: TransactionEvent) -> Message:
        message = self._plain_boundary(event)
        return next(_with_headers([message], row.headers)) if row.headers else message

    def _plain_boundary(self, event: TransactionEvent) -> _Plain:
        value, key = transaction_value(event, context_as_text=self._schemas), orjson.dumps({"id": event.id})
        if self._schemas:
            value, key = TRANSACTION_FRAME.value(value), TRANSACTION_FRAME.key(key)
        return self._transaction_topic, value, key, 0


def _with_headers(messages: Iterable[_Plain], headers: Headers) -> Iterator[Message]:
    return ((*message, None, None, _OWN_TIME, headers) for message in messages)
