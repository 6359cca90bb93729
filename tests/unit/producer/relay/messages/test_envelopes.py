"""Claimed rows become messages. Test contents, lsns, orders, and bytes that other programs can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.producer.outbox.block_parser import ChangeSplitter
from rowcast.producer.outbox.line_parser import Change, LineHead
from rowcast.producer.relay.claims.claim_table import Claim, ClaimedChunk
from rowcast.producer.relay.claims.connections import Connections
from rowcast.producer.relay.claims.outbox_reader import OutboxRow
from rowcast.producer.relay.claims.partial_transaction import PartialTransaction
from rowcast.producer.relay.messages.batch_rows import ParsedRow, lsn_count, parse_row, partial_after
from rowcast.producer.relay.messages.envelopes import Envelopes, Message
from rowcast.producer.relay.messages.table_versions import TableVersions
from rowcast.shared.kafka.messages import parse_change, parse_transaction
from support.project import REFERENCE
from support.relay.primary import ITEMS, ORDERS, line, primary_at

NOW = 1_700_000_000_500


@pytest.fixture(scope="module")
def envelopes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envelopes]:
    path: Path = tmp_path_factory.mktemp("envelopes") / "primary.db"
    with primary_at(path) as primary, Connections(primary.engine) as connections:
        primary.add_shapes(ORDERS, ITEMS)
        yield Envelopes('sh"op', "app", TableVersions(connections, 'sh"op'))


def row(id_: int, tx: str, *lines: str, ts_ms: int = 1_700_000_000_000) -> ParsedRow:
    return parse_row(OutboxRow(id_, tx, ts_ms, "".join(lines)), ChangeSplitter())


def published(
    envelopes: Envelopes,
    rows: Sequence[ParsedRow],
    first_lsn: int = 1,
    carried_in: PartialTransaction | None = None,
    end_id: int | None = None,
) -> tuple[list[Message], Claim]:
    lsns = lsn_count(rows, carried_in, end_id is not None)
    carried_out = partial_after(rows, carried_in, end_id)
    claim = Claim(first_lsn, first_lsn + lsns - 1, tuple(r.id for r in rows), carried_in, carried_out)
    return list(envelopes.claim_messages(claim, rows, NOW)), claim


def test_an_event_is_byte_for_byte_what_a_json_library_would_write(envelopes: Envelopes) -> None:
    image = {"id": 7, "note": "x"}
    compact = f'{{"t":"public.orders","v":"{ORDERS.version}","op":"u","k":{{"id":7}},"a":{{"id":7,"note":"x"}}}}\n'
    messages, _ = published(envelopes, [row(1, 'a"b', compact)], first_lsn=41)
    topic, value, key, partition = messages[1][:4]
    assert (topic, key, partition) == ("sh_op.public.orders", b'{"id":7}', -1)
    assert value == orjson.dumps(
        {
            "before": None,
            "after": image,
            "source": {
                "version": "0.2.0",
                "connector": "rowcast",
                "name": 'sh"op',
                "ts_ms": 1_700_000_000_000,
                "snapshot": "false",
                "db": "app",
                "schema": "public",
                "table": "orders",
                "txId": 'a"b',
                "lsn": 42,
                "origin": None,
                "shape": ORDERS.version,
            },
            "op": "u",
            "ts_ms": NOW,
            "transaction": {"id": 'a"b', "total_order": 1, "data_collection_order": 1},
        }
    )


def test_a_transaction_is_begin_events_end_with_consecutive_lsns(envelopes: Envelopes) -> None:
    lines = (line(ORDERS, "c", 1), line(ITEMS, "c", 1), line(ORDERS, "u", 1))
    messages, claim = published(envelopes, [row(1, "a", *lines), row(2, "a", line(ITEMS, "u", 1))], first_lsn=10)
    begin, *events, end = messages
    assert (begin[0], begin[2], begin[3]) == ("sh_op.transaction", b'{"id":"a"}', 0)
    first, last = parse_transaction(begin[1] or b""), parse_transaction(end[1] or b"")
    changes = [parse_change(key, value or b"") for _, value, key, *_ in events]
    assert (first.status, first.lsn) == ("BEGIN", 10)
    assert [(c.lsn, c.total_order, c.full_name) for c in changes] == [
        (11, 1, "public.orders"),
        (12, 2, "public.items"),
        (13, 3, "public.orders"),
        (14, 4, "public.items"),
    ]
    assert [orjson.loads(e[1] or b"")["transaction"]["data_collection_order"] for e in events] == [1, 1, 2, 2]
    assert (last.status, last.lsn, last.event_count) == ("END", 15, 4)
    assert last.data_collections == {"public.orders": 2, "public.items": 2}
    assert (claim.first_lsn, claim.last_lsn) == (10, 15)


def test_a_delete_is_followed_by_a_tombstone_that_counts_for_nothing(envelopes: Envelopes) -> None:
    messages, _ = published(envelopes, [row(1, "a", line(ORDERS, "d", 5), line(ORDERS, "c", 6))])
    _, delete, tombstone, create, end = messages
    assert parse_change(delete[2], delete[1] or b"").after is None
    # The tombstone has the lsn of the delete, because compaction may remove the delete.
    assert tombstone == ("sh_op.public.orders", None, b'{"id":5}', -1, None, None, 0, [("__rowcast.lsn", b"2")])
    assert parse_change(delete[2], delete[1] or b"").lsn == 2
    assert parse_change(create[2], create[1] or b"").lsn == 3
    assert parse_transaction(end[1] or b"").event_count == 2


def test_a_transaction_streamed_over_claims_counts_on(envelopes: Envelopes) -> None:
    rows = [row(n, "big", line(ORDERS, "c", n), line(ITEMS, "c", n)) for n in range(1, 6)]
    one_go, _ = published(envelopes, rows)
    first, claim = published(envelopes, rows[:2], end_id=5)
    second, claim = published(envelopes, rows[2:4], claim.last_lsn + 1, claim.carried_out, end_id=5)
    third, claim = published(envelopes, rows[4:], claim.last_lsn + 1, claim.carried_out)
    assert first + second + third == one_go
    assert claim.carried_out is None


def test_a_chunk_ends_with_a_transaction_without_events_as_documented(envelopes: Envelopes) -> None:
    head = LineHead(ORDERS.full_name, ORDERS.version, "r")
    changes: list[Change] = [(head, b'{"id":%d}' % n, b'{"id":%d,"note":"x"}' % n, None) for n in (5, 6)]
    claim = Claim(7, 10, (), None, None, ClaimedChunk(snapshot=3, last_key=None, rows=2))
    *rows, begin, end = envelopes.chunk_messages(claim, changes, NOW)
    assert [parse_change(m[2], m[1] or b"").op for m in rows] == ["r", "r"]
    for message in rows:
        jsonschema.validate(orjson.loads(message[1] or b""), schema_of("change-event"))
    for message in (begin, end):
        jsonschema.validate(orjson.loads(message[1] or b""), schema_of("transaction-event"))
    last = orjson.loads(end[1] or b"")
    assert (last["status"], last["lsn"], last["event_count"], last["data_collections"]) == ("END", 10, 0, [])


def schema_of(kind: str) -> Any:
    return orjson.loads((REFERENCE / f"{kind}.schema.json").read_bytes())


ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.lists(st.sampled_from(["oc", "od", "ou", "ic", "id"]), min_size=1, max_size=4)),
    min_size=1,
    max_size=8,
)


@given(ROWS, st.data())
def test_however_claims_are_cut_the_messages_are_the_same(
    envelopes: Envelopes, drawn: list[tuple[int, list[str]]], data: st.DataObject
) -> None:
    drawn.sort(key=lambda item: item[0])
    rows = [
        row(n, f"t{tx}", *(line(ORDERS if kind[0] == "o" else ITEMS, kind[1], n) for kind in kinds))
        for n, (tx, kinds) in enumerate(drawn, 1)
    ]
    whole, last_claim = published(envelopes, rows)
    messages: list[Message] = []
    lsn = 1
    carried: PartialTransaction | None = None
    while rows:
        cut = data.draw(st.integers(1, len(rows)))
        part, rows = rows[:cut], rows[cut:]
        rest = [r.id for r in rows if r.tx == part[-1].tx]
        more, claim = published(envelopes, part, lsn, carried, rest[-1] if rest else None)
        messages += more
        lsn = claim.last_lsn + 1
        # Encode and decode the partial transaction, because the next claim reads it from the database.
        carried = PartialTransaction.from_json(None if claim.carried_out is None else claim.carried_out.to_json())
    assert messages == whole
    assert lsn == last_claim.last_lsn + 1
    assert [_lsn(value) for _, value, *_ in whole if value] == list(range(1, lsn))


@given(ROWS)
def test_headers_are_added_to_the_message_that_a_row_without_headers_gives(
    envelopes: Envelopes, drawn: list[tuple[int, list[str]]]
) -> None:
    """The fast path of rows without headers and the full path give equal messages."""
    bare_rows = [
        row(n, f"t{tx}", *(line(ORDERS if kind[0] == "o" else ITEMS, kind[1], n) for kind in kinds))
        for n, (tx, kinds) in enumerate(sorted(drawn, key=lambda item: item[0]), 1)
    ]
    headers = (("traceparent", b"00-1-2-00"),)
    bare, _ = published(envelopes, bare_rows)
    full, _ = published(envelopes, [replace(each, headers=headers) for each in bare_rows])
    lsns = [message[7] if len(message) > 4 else () for message in bare]
    expected = [(*m[:4], None, None, 0, [*lsn, *headers]) for m, lsn in zip(bare, lsns, strict=True)]
    assert full == expected


def _lsn(value: bytes) -> Any:
    data = orjson.loads(value)
    return data["lsn"] if "lsn" in data else data["source"]["lsn"]


def with_schemas(tmp_path: Path, *rows: ParsedRow) -> list[Message]:
    with primary_at(tmp_path / "primary.db") as primary, Connections(primary.engine) as connections:
        primary.add_shapes(ORDERS)
        tables = TableVersions(connections, "shop")
        return published(Envelopes("shop", "app", tables, schemas=True), rows)[0]


def test_a_message_with_its_schema_holds_the_plain_one(tmp_path: Path) -> None:
    change, context = line(ORDERS, "u", 7, "x"), '{"user":"ann"}'
    one = parse_row(OutboxRow(1, "a", 1_700_000_000_000, change, context), ChangeSplitter())
    begin, event, end = with_schemas(tmp_path, one)
    key, value = orjson.loads(event[2]), orjson.loads(event[1] or b"")
    assert key["payload"] == {"id": 7}
    assert key["schema"] == {
        "type": "struct",
        "name": "shop.public.orders.Key",
        "version": 1,
        "optional": False,
        "fields": [{"type": "int64", "optional": False, "field": "id"}],
    }
    assert value["payload"]["after"] == {"id": 7, "note": "x"}
    assert value["payload"]["transaction"]["context"] == '{"user":"ann"}'
    assert value["schema"]["name"] == "shop.public.orders.Envelope"
    fits(value["payload"], value["schema"])
    for boundary, name in ((begin, "Value"), (end, "Value")):
        message = orjson.loads(boundary[1] or b"")
        assert message["schema"]["name"] == f"io.debezium.connector.common.TransactionMetadata{name}"
        fits(message["payload"], message["schema"])
        assert parse_transaction(boundary[1] or b"").context == {"user": "ann"}


def test_a_delete_with_its_schema_has_its_key_in_before(tmp_path: Path) -> None:
    """Debezium's JDBC sink refuses a delete without a row."""
    _, delete, tombstone, _ = with_schemas(tmp_path, row(1, "a", line(ORDERS, "d", 7)))
    value = orjson.loads(delete[1] or b"")
    assert (value["payload"]["before"], value["payload"]["after"]) == ({"id": 7}, None)
    fits(value["payload"], value["schema"])
    assert tombstone[:4] == (delete[0], None, delete[2], -1)


def fits(value: Any, schema: dict[str, Any]) -> None:
    """Check a payload as Connect does: each required field has a value, and each member is a field."""
    if value is None:
        assert schema["optional"], schema
    elif schema["type"] == "struct":
        assert value.keys() <= {field["field"] for field in schema["fields"]}
        for field in schema["fields"]:
            fits(value.get(field["field"]), field)
    elif schema["type"] == "array":
        for item in value:
            fits(item, schema["items"])
    else:
        assert isinstance(value, {"string": str, "int64": int}[schema["type"]])
