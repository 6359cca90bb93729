"""A message of any form is either read or refused with a reason, and a shape that is read becomes one statement."""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable

from rowcast.consumer.events.change import read_change, read_change_fully
from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.replica.dialects import replica_dialect
from rowcast.consumer.replica.table_definitions import TableDefinitions
from rowcast.shared.errors import DataError
from rowcast.shared.kafka.messages import TransactionEvent, parse_transaction, transaction_value
from rowcast.shared.tables.shape import ColumnShape, Masking, PortableType, TableShape
from rowcast.shared.tables.shape_document import parse_shape
from support.kafka_source import column, shape
from support.memory_topics import MemorySource

THING = shape(
    "thing",
    ColumnShape("text", PortableType("string", length=9), masking=Masking(hash="sha256")),
    column("list", "array"),
    column("amount", PortableType("decimal", precision=9, scale=2, native="NUMERIC(9, 2)")),
    unique=[("text",)],
    refers=[("amount", "thing")],
    engine="postgresql",
)
ROW = {"id": 1, "text": "x", "list": None, "amount": "1.00"}
KEY = orjson.dumps({"id": 1})
EVENT = MemorySource().envelope("c", THING, ROW, 5, "7", 1, 1)
END = transaction_value(TransactionEvent("END", "7", 1, 6, 1, {"public.thing": 1}, {"actor": "a"}))
SHAPE = orjson.dumps({**orjson.loads(THING.to_json()), "version": "v", "lsn": 1})

LAYOUTS = RowLayouts()
LAYOUTS.add(THING.version, THING)

EXTREMES = [-(2**63), 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 1e300, 0.5]
WORDS = ["", "\0", "id", "text", "public", "1", "array", "d", "BEGIN", "TEXT DEFAULT 1", "x); DROP TABLE y; --"]
TEXTS = st.one_of(st.text(max_size=5), st.sampled_from(WORDS))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(EXTREMES), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=4,
)
OTHER_MESSAGES = [b"", b"null", b"[]", b"1", b'"x"', b"[" * 2_000, b"\xff"]
MISSING = object()

Path = tuple[Any, ...]


def paths(document: Any, path: Path = ()) -> list[Path]:
    """Return the path of each value in a document."""
    found = [path]
    if isinstance(document, dict):
        found += [one for name, value in document.items() for one in paths(value, (*path, name))]
    elif isinstance(document, list):
        found += [one for number, value in enumerate(document) for one in paths(value, (*path, number))]
    return found


def changed(document: Any, path: Path, value: Any) -> Any:
    """Return the document with another value at the path, or without the value if it is ``MISSING``."""
    if not path:
        return None if value is MISSING else value
    result = copy.deepcopy(document)
    *outer, last = path
    owner = result
    for name in outer:
        owner = owner[name]
    if value is MISSING:
        del owner[last]
    else:
        owner[last] = value
    return result


@st.composite
def mutated(draw: Callable[..., Any], message: bytes) -> bytes:
    """Return the message with other values in one or two places, or with other bytes."""
    if draw(st.integers(0, 9)) == 0:
        at, skipped = draw(st.integers(0, len(message))), draw(st.integers(0, 3))
        mixed: bytes = message[:at] + draw(st.binary(max_size=3)) + message[at + skipped :]
        return mixed
    document: Any = orjson.loads(message)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(paths(document)))
        document = changed(document, path, draw(st.one_of(st.just(MISSING), VALUES)))
    return orjson.dumps(document)


def messages(message: bytes) -> Any:
    return st.one_of(mutated(message), st.sampled_from(OTHER_MESSAGES))


def read_or_refused(read: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the function reads, or None if it refuses the message. Every other error is a fault."""
    try:
        return read(*arguments)
    except DataError:
        return None


@pytest.mark.campaign
def test_a_mutated_event_is_read_or_refused(campaign: bool) -> None:
    @settings(max_examples=50_000 if campaign else 100)
    @given(messages(EVENT), st.one_of(st.just(KEY), st.none(), messages(KEY)))
    def check(value: bytes, key: bytes | None) -> None:
        for read in (read_change, read_change_fully):
            change = read_or_refused(read, key, value, ("t", 0), 3, LAYOUTS)
            if change is None:
                continue
            assert orjson.loads(change.key).keys() == {"id"}
            assert type(change.ts_ms) is int
            assert 0 <= change.lsn < 2**63
            assert change.transaction is None or type(change.transaction) is str
            if change.after is not None:
                row = orjson.loads(change.after)
                assert row.keys() == ROW.keys()
                assert row["id"] == orjson.loads(change.key)["id"]

    check()


@pytest.mark.campaign
def test_a_mutated_end_is_read_or_refused(campaign: bool) -> None:
    @settings(max_examples=20_000 if campaign else 100)
    @given(messages(END))
    def check(value: bytes) -> None:
        event = read_or_refused(parse_transaction, value)
        if event is not None:
            assert type(event.id) is str
            assert 0 <= event.lsn < 2**63
            assert all(count >= 0 for count in (event.data_collections or {}).values())

    check()


@pytest.mark.campaign
def test_a_mutated_shape_becomes_one_statement_or_is_refused(campaign: bool) -> None:
    dialects = {"postgresql": postgresql.dialect(), "mysql": mysql.dialect(), "sqlite": sqlite.dialect()}

    @settings(max_examples=30_000 if campaign else 100)
    @given(messages(SHAPE))
    def check(value: bytes) -> None:
        found: TableShape | None = read_or_refused(parse_shape, value)
        if found is None:
            return
        for name, dialect in dialects.items():
            table = TableDefinitions([found], replica_dialect(name), dialect).tables[found.full_name]
            statement = str(CreateTable(table).compile(dialect=dialect))
        with closing(sqlite3.connect(":memory:")) as database:
            # The driver refuses a second statement.
            database.execute(statement)
            created = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        assert created == [(table.name,)]

    check()
