"""Fast and full path of the drain write equal outbox rows, and refuse the same missing rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import event, given
from hypothesis import strategies as st
from sqlalchemy.engine import Connection

from rowcast.producer.capture.drain.outbox_writer import FAST_PATH_MAX_NOTES, OutboxWriter
from rowcast.producer.capture.notes.folding import FIRST_TOUCHES, MAY_BE_GONE, Touch
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.errors import CaptureError
from support.captured_tables import CapturedShop

KEYS = {
    "item": st.tuples(st.integers(1, 4)),
    "line": st.tuples(st.integers(1, 3), st.sampled_from(["x", "y", 'q"\\'])),
    "audited": st.tuples(st.integers(1, 4)),
}


@st.composite
def notes_of_a_transaction(draw: st.DrawFn) -> list[tuple[str, Touch, list[Any], bool]]:
    found = []
    # The fast path handles few notes with a key each, so most notes are of this kind.
    for _ in range(draw(st.integers(1, FAST_PATH_MAX_NOTES + 1))):
        name = draw(st.sampled_from(["item", "item", "line", "line", "audited"]))
        size = draw(st.sampled_from([1, 1, 1, 1, 1, 1, 2]))
        keys = draw(st.lists(KEYS[name], min_size=size, max_size=size, unique=True))
        touch, locked = draw(st.sampled_from([*FIRST_TOUCHES, *LOCKED_TOUCHES]))
        found.append((name, touch, keys, locked))
    return found


LOCKED_TOUCHES = [touch for touch in FIRST_TOUCHES if touch[1]]

SHOP = CapturedShop()
WRITER = OutboxWriter(SHOP.outbox, SHOP.engine.dialect)
"""Share a writer between all examples, because each writer caches the statements of many combinations of tables."""


def filled(connection: Connection, existing: dict[str, set[Any]]) -> None:
    connection.execute(sa.insert(SHOP.item), [{"id": key[0], "name": "ä\n"} for key in existing["item"]] or [{"id": 9}])
    connection.execute(sa.insert(SHOP.audited), [{"id": key[0]} for key in existing["audited"]] or [{"id": 9}])
    lines = [{"a": a, "b": b, "amount": 7} for a, b in existing["line"]]
    connection.execute(sa.insert(SHOP.line), lines or [{"a": 9, "b": "z"}])


def written(connection: Connection) -> list[Any]:
    outbox = SHOP.outbox.outbox.c
    columns = (outbox.tx, outbox.complete, outbox.changes, outbox.context)
    return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(outbox.id))]


@given(
    st.fixed_dictionaries({name: st.sets(keys, max_size=4) for name, keys in KEYS.items()}),
    notes_of_a_transaction(),
    st.sampled_from([None, '{"actor":"anna"}']),
    st.booleans(),
)
def test_fast_and_full_path_write_the_same_rows(
    existing: dict[str, set[Any]], noted: list[tuple[str, Touch, list[Any], bool]], context: str | None, last: bool
) -> None:
    notes = TransactionNotes()
    with SHOP.connect() as connection:
        filled(connection, existing)
        for name, touch, keys, locked in noted:
            notes.note(SHOP.captured(connection, SHOP.metadata.tables[name]), touch, keys, locked=locked)
        save = connection.begin_nested()
        fast: Any = False
        refused = None
        try:
            fast = WRITER.write_fast(connection, notes.entries, lambda: "tx1", context, last=last, commit=False)
        except CaptureError as error:
            refused, fast = str(error), "refused"
        by_fast_path = written(connection)
        save.rollback()
        folded = notes.fold()
        event(f"fast path: {fast}")
        if missing := sorted(missing_rows(folded, existing)):
            with pytest.raises(CaptureError) as raised:
                WRITER.write_full(connection, folded, {}, lambda: "tx1", context, last=last, commit=False)
            assert any(row in str(raised.value) for row in missing)
            assert refused is None or any(row in refused for row in missing)
            assert fast in (False, "refused")
        else:
            WRITER.write_full(
                connection, folded, notes.before_images(), lambda: "tx1", context, last=last, commit=False
            )
            assert by_fast_path == (written(connection) if fast else [])
        connection.rollback()


def missing_rows(folded: Any, existing: dict[str, set[Any]]) -> Iterator[str]:
    """Yield the beginning of the message for each row that must exist and does not."""
    for table, keys in folded.items():
        for key, flags in keys.items():
            if key not in existing[table.table.name] and not flags & MAY_BE_GONE:
                values = zip(table.key_columns, key, strict=True)
                yield f"({', '.join(f'{column.name}={value!r}' for column, value in values)}) of {table.full_name}"


def test_the_fast_path_takes_the_usual_transaction() -> None:
    notes = TransactionNotes()
    with SHOP.connect() as connection:
        filled(connection, {"item": {(1,)}, "line": {(1, "x")}, "audited": set()})
        notes.note(SHOP.captured(connection, SHOP.item), Touch.UPDATE, [(1,)], locked=True)
        notes.note(SHOP.captured(connection, SHOP.line), Touch.INSERT, [(1, "x")], locked=True)
        assert WRITER.write_fast(connection, notes.entries, lambda: "tx1", None, last=True, commit=False)
        [(_, complete, changes, _)] = written(connection)
        assert complete
        assert [line.split('"op":')[1].split(',"a"')[0] for line in changes.splitlines()] == [
            '"u","k":{"id":1}',
            '"c","k":{"a":1,"b":"x"}',
        ]
        connection.rollback()


def test_a_table_that_is_described_again_takes_the_full_path() -> None:
    notes = TransactionNotes()
    with SHOP.connect() as connection:
        notes.note(SHOP.captured(connection, SHOP.item), Touch.INSERT, [(1,)], locked=True)
        again = CapturedTable(SHOP.item, SHOP.engine.dialect, "main")
        notes.note(again, Touch.DELETE, [(1,)], locked=True)
        assert not WRITER.write_fast(connection, notes.entries, lambda: "tx1", None, last=True, commit=False)
        connection.rollback()
