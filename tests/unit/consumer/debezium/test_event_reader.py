"""Messages of every form become changes: envelopes of PostgreSQL and MySQL, flattened events, tombstones."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from rowcast.consumer.debezium.event_forms import EventForms
from rowcast.consumer.debezium.event_reader import EventReader, TableEvent
from rowcast.consumer.debezium.existing_tables import ExistingTables
from rowcast.consumer.debezium.log_place import LogPlace
from rowcast.consumer.debezium.transaction_record import Begin, End, read_record
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError
from support.debezium_source import ID, text, with_schema
from support.memory_topics import Message

FIELDS = [ID, text("body")]
KEY_SCHEMA = {"type": "struct", "fields": [ID]}
KEY = with_schema(KEY_SCHEMA, {"id": 1})
POSTGRESQL = {"connector": "postgresql", "name": "shop", "schema": "public", "table": "item", "ts_ms": 5, "lsn": 90}
MYSQL = {
    "connector": "mysql", "name": "shop", "db": "app", "table": "item", "ts_ms": 5, "file": "bin.000002", "pos": 4,
    "row": 1, "server_id": 223344, "gtid": "3e11fa47:23", "snapshot": "false",
}  # fmt: skip


def reader(*tables: str, connector: Any = "postgresql") -> EventReader:
    settings = Settings(source="shop", format="debezium", debezium={"connector": connector})
    layouts = RowLayouts(tables or ("*",))
    existing = ExistingTables(settings, ReplicaSettings(url="sqlite://"))
    return EventReader(settings, layouts, EventForms(settings.debezium, layouts, existing))


def message(value: bytes | None, key: bytes = KEY, topic: str = "shop.public.item") -> Message:
    return Message(topic, 0, 7, key, value, 3)


def envelope(op: str, after: Any, source: Any = POSTGRESQL, **more: Any) -> bytes:
    row = {"type": "struct", "fields": FIELDS}
    schema = {"type": "struct", "fields": [{**row, "field": "before"}, {**row, "field": "after"}]}
    return with_schema(
        schema, {"before": None, "after": after, "source": source, "op": op, "transaction": None, **more}
    )


def flattened(**row: Any) -> bytes:
    added = [text(name) for name in row if name.startswith("__")]
    return with_schema({"type": "struct", "fields": [*FIELDS, *added]}, row)


def read(one: EventReader, value: bytes | None, **more: Any) -> TableEvent:
    event = one.read(message(value, **more))
    assert event is not None
    return event


def test_an_envelope_of_postgresql() -> None:
    block = {"id": "571:90", "total_order": 2, "data_collection_order": 1}
    event = read(reader(), envelope("u", {"id": 1, "body": "x"}, transaction=block))
    change = event.change
    assert (change.key, change.after, change.transaction) == (b'{"id":1}', b'{"id":1,"body":"x"}', "571")
    assert (event.place, event.order, change.creates, change.ts_ms) == (LogPlace("", 90, 90), 2, False, 5)


def test_an_envelope_of_mysql() -> None:
    """The id of a transaction is a GTID, whose colon separates nothing."""
    block = {"id": "3e11fa47:23", "total_order": 1, "data_collection_order": 1}
    event = read(reader(), envelope("c", {"id": 1, "body": None}, MYSQL, transaction=block), topic="shop.app.item")
    shape = event.change.layout.shape
    assert (event.change.transaction, shape.full_name, shape.default_schema) == ("3e11fa47:23", "app.item", True)
    assert event.place == LogPlace("3e11fa47", 2 * 2**40 + 4, 1, counts_rows=True)


def test_a_snapshot_says_where_it_ends() -> None:
    one = reader()
    marks = [
        read(one, envelope("r", {"id": 1, "body": "x"}, {**POSTGRESQL, "snapshot": mark}))
        for mark in ("first", "last", "incremental")
    ]
    assert [(e.is_read, e.is_snapshot, e.is_last) for e in marks] == [
        (True, True, False), (True, True, True), (True, False, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "is_delete", "transaction", "order"),
    [
        ({"id": 1, "body": "x"}, False, None, 0),
        ({"id": 1, "body": "x", "__deleted": "true"}, True, None, 0),
        ({"id": 1, "body": "x", "__deleted": "false", "__op": "c"}, False, None, 0),
        ({"id": 1, "body": None, "__op": "d"}, True, None, 0),
        ({"id": 1, "body": None, "__transaction_id": "571:9", "__transaction_total_order": 4}, False, "571", 4),
    ],
)
def test_a_flattened_event(row: dict[str, Any], is_delete: bool, transaction: str | None, order: int) -> None:
    event = read(reader(), flattened(**row))
    assert (event.change.after is None) is is_delete
    assert event.change.after is None or orjson.loads(event.change.after) == {"id": 1, "body": row["body"]}
    assert (event.change.transaction, event.order, event.change.layout.table) == (transaction, order, "public.item")


def test_a_flattened_event_may_say_its_place() -> None:
    event = read(reader(), flattened(id=1, body="x", __source_lsn=90, __source_sequence='["80","90"]'))
    assert event.place == LogPlace("", 80, 90)


@pytest.mark.parametrize("value", [None, with_schema({"type": "struct"}, None)])
def test_a_tombstone_is_a_delete_of_a_known_table(value: bytes | None) -> None:
    one = reader()
    assert one.read(message(value)) is None
    read(one, envelope("c", {"id": 1, "body": "x"}))
    event = read(one, value)
    assert (event.is_tombstone, event.change.key, event.change.after) == (True, b'{"id":1}', None)


def test_a_connector_with_a_longer_prefix_is_another_source() -> None:
    value = envelope("c", {"id": 1, "body": "x"}, {**POSTGRESQL, "name": "shop.eu"})
    assert reader().read(message(value, topic="shop.eu.public.item")) is None


def test_an_unwanted_table_is_left_out() -> None:
    assert reader("public.other").read(message(envelope("c", {"id": 1, "body": "x"}))) is None


def test_a_left_out_value_keeps_the_others() -> None:
    event = read(reader(), envelope("u", {"id": 1, "body": "__debezium_unavailable_value"}))
    assert event.change.layout.keeps_others
    assert event.change.after == b'{"id":1}'


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (envelope("u", {"id": 2, "body": "x"}), KEY, "another key"),
        (envelope("u", {"id": 1}), KEY, "columns of its schema"),
        (envelope("x", {"id": 1, "body": "x"}), KEY, "op 'x'"),
        (envelope("u", {"id": 1, "body": {}}), KEY, "holds an object"),
        (envelope("u", {"id": 1, "body": "x"}), b"", "has no key"),
        (envelope("u", {"id": 1, "body": "x"}), b'{"id":1}', "only one of key and value"),
        (envelope("u", {"id": 1, "body": "x"}, {**POSTGRESQL, "connector": "rowcast"}), KEY, "relay wrote the message"),
        (b"[]", KEY, "not an object"),
        (b"{", KEY, "not an event of Debezium"),
    ],
)
def test_a_message_that_cannot_be_applied_is_refused(value: bytes, key: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        reader().read(message(value, key))


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("571:90", "571"),
        ("3e11fa47-ed9f-11f1-9a2f-02fc00000001:23", "3e11fa47-ed9f-11f1-9a2f-02fc00000001:23"),
        ("0-1-100", "0-1-100"),
        ("file=b,pos=4", "file=b,pos=4"),
    ],
)
def test_begin_and_end(identity: str, expected: str) -> None:
    begin = {"status": "BEGIN", "id": identity, "event_count": None, "data_collections": None, "ts_ms": 5}
    counts = [{"data_collection": "app.item", "event_count": 2}]
    end = begin | {"status": "END", "event_count": 2, "data_collections": counts}
    assert read_record(orjson.dumps(begin)) == Begin(expected)
    assert read_record(with_schema({}, end)) == End(expected, identity, 5, {"app.item": 2})
    with pytest.raises(DataError, match="relay wrote the message"):
        read_record(orjson.dumps(begin | {"lsn": 4}))
    with pytest.raises(DataError, match="not a transaction record"):
        read_record(b"{}")
