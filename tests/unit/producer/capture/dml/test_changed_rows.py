"""Each class that determines keys notes the right keys."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection, CursorResult

from rowcast.producer.capture.dml.cascaded_rows import CascadedRows
from rowcast.producer.capture.dml.changed_rows import NAMED, InsertedRows, NamedRows, ReturnedRows
from rowcast.producer.capture.dml.locked_rows import ComputedRows, LockedRows, NamedLockedRows
from rowcast.producer.capture.dml.pending_statement import ChangedRows, PendingStatement
from rowcast.producer.capture.dml.returned_keys import AppendedReturning, InjectedReturning
from rowcast.producer.capture.notes.strictness import StrictnessRule
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from rowcast.shared.errors import CaptureError
from support.captured_tables import CapturedShop, execute_extended, noted

STRICT = StrictnessRule("raise")


def execute(connection: Connection, pending: PendingStatement) -> CursorResult[Any]:
    return connection.execute(pending.statement, pending.sets)


def note_executed(connection: Connection, pending: PendingStatement, rows: ChangedRows) -> Any:
    notes = TransactionNotes()
    result = (
        execute_extended(connection, pending, rows.extend_sql) if rows.extends_sql else execute(connection, pending)
    )
    rows.note(connection, pending, result, notes)
    return noted(notes)


def test_reported_rows_of_an_insert_are_noted_with_the_drawn_key(shop: CapturedShop, connection: Connection) -> None:
    pending = shop.pending(connection, sa.insert(shop.item), {"name": "a"})
    assert note_executed(connection, pending, InsertedRows(STRICT)) == [("item", "insert", [(1,)], True)]


def test_rows_of_an_upsert_are_noted_as_updated(shop: CapturedShop, connection: Connection) -> None:
    statement = sqlite.insert(shop.item).on_conflict_do_update(index_elements=["id"], set_={"name": "b"})
    pending = shop.pending(connection, statement, {"id": 7, "name": "a"})
    rows = InsertedRows(STRICT, InjectedReturning())
    rows.returned.prepare(pending)
    notes = TransactionNotes()
    rows.note(connection, pending, execute_extended(connection, pending, rows.extend_sql), notes)
    assert noted(notes) == [("item", "update", [(7,)], True)]


def test_side_effects_of_an_insert_are_noted_before_its_own_rows(shop: CapturedShop, connection: Connection) -> None:
    pending = shop.pending(connection, sa.insert(shop.item), {"id": 2})
    pending.add_side_effect(shop.captured(connection, shop.audited), [(9,)])
    assert note_executed(connection, pending, InsertedRows(STRICT)) == [
        ("audited", "delete", [(9,)], True),
        ("item", "insert", [(2,)], True),
    ]


def test_an_insert_that_does_not_give_its_keys_is_refused(shop: CapturedShop, connection: Connection) -> None:
    pending = shop.pending(connection, sa.insert(shop.item), {"id": 1}, {"id": sa.literal(2)})
    rows = InsertedRows(STRICT)
    result: Any = type("Result", (), {"inserted_primary_key_rows": [(1,), None]})()
    with pytest.raises(CaptureError, match=r"main\.item.*an INSERT|an INSERT .*main\.item"):
        rows.note(connection, pending, result, TransactionNotes())


def test_a_failed_insert_may_have_inserted_the_keys_in_its_parameters(
    shop: CapturedShop, connection: Connection
) -> None:
    rows, notes = InsertedRows(STRICT), TransactionNotes()
    given = shop.pending(connection, sa.insert(shop.item), {"id": 1}, {"id": 2})
    drawn = shop.pending(connection, sa.insert(shop.item), {"name": "a"})
    assert rows.note_attempted(given, notes)
    assert not rows.note_attempted(drawn, notes)
    assert noted(notes) == [("item", "insert", [(1,), (2,)], False)]


def test_a_failed_statement_may_have_changed_the_rows_that_it_names(shop: CapturedShop, connection: Connection) -> None:
    notes = TransactionNotes()
    deleted = shop.pending(connection, sa.delete(shop.item))
    changed = shop.pending(connection, sa.update(shop.item).values(id=5))
    deleted.keys = changed.keys = ((1,),)
    deleted.add_side_effect(shop.captured(connection, shop.audited), [(9,)])
    for pending, rows in (
        (deleted, NAMED),
        (changed, NamedRows([(5,)])),
        (deleted, LockedRows(CascadedRows(shop.scope))),
    ):
        assert rows.note_attempted(pending, notes)
    assert noted(notes) == [
        ("item", "delete", [(1,)], False),
        ("item", "delete", [(1,)], False),
        ("item", "insert", [(5,)], False),
        ("audited", "delete", [(9,)], True),
        ("item", "delete", [(1,)], True),
    ]


def test_returned_rows_are_noted_as_locked(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    for statement, touch in ((sa.update(shop.item).values(name="c"), "update"), (sa.delete(shop.item), "delete")):
        pending = shop.pending(connection, statement)
        rows = ReturnedRows(AppendedReturning())
        rows.returned.prepare(pending)
        assert note_executed(connection, pending, rows) == [("item", touch, [(1,), (2,)], True)]


@pytest.mark.parametrize(("ids", "locked"), [([1, 2], True), ([1, 5], False), ([1, 1], True), ([5, 1, 1], False)])
def test_named_rows_are_locked_only_if_the_statement_found_all(
    shop: CapturedShop, connection: Connection, ids: list[int], locked: bool
) -> None:
    connection.execute(sa.insert(shop.item), [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    statement = sa.update(shop.item).where(shop.item.c.id == sa.bindparam("key"))
    pending = shop.pending(connection, statement, *({"key": i, "name": "c"} for i in ids))
    pending.keys = tuple((i,) for i in ids)
    assert note_executed(connection, pending, NAMED) == [("item", "update", [(i,) for i in ids], locked)]


def test_named_rows_with_new_keys_are_noted_under_both(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), {"id": 1, "name": "a"})
    statement = sa.update(shop.item).where(shop.item.c.id == sa.bindparam("key")).values(id=5)
    pending = shop.pending(connection, statement, {"key": 1})
    pending.keys = ((1,),)
    assert note_executed(connection, pending, NamedRows([(5,)])) == [
        ("item", "delete", [(1,)], True),
        ("item", "insert", [(5,)], True),
    ]


def test_a_delete_that_finds_no_row_leaves_no_delete(shop: CapturedShop, connection: Connection) -> None:
    pending = shop.pending(connection, sa.delete(shop.item).where(shop.item.c.id == 1))
    pending.keys = ((1,),)
    assert note_executed(connection, pending, NAMED) == [("item", "update", [(1,)], False)]


def test_a_key_that_is_not_unique_in_the_database_is_refused(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    pending = shop.pending(connection, sa.update(shop.item).values(name="c"))
    pending.keys = ((1,),)
    notes = TransactionNotes()
    with pytest.raises(CaptureError, match=r"changed 2 rows of main\.item but names 1 primary key,"):
        NAMED.note(connection, pending, execute(connection, pending), notes)
    with pytest.raises(CaptureError, match="Declare the primary key"):
        notes.raise_refusal()


def test_locked_rows_are_read_before_the_statement(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    pending = shop.pending(connection, sa.delete(shop.item).where(shop.item.c.name == "b"))
    rows = LockedRows(CascadedRows(shop.scope))
    rows.lock(connection, pending)
    assert pending.keys == ((2,),)
    assert note_executed(connection, pending, rows) == [("item", "delete", [(2,)], True)]


def test_a_statement_that_changes_more_rows_than_were_locked_is_refused(
    shop: CapturedShop, connection: Connection
) -> None:
    connection.execute(sa.insert(shop.item), {"id": 1, "name": "a"})
    pending = shop.pending(connection, sa.delete(shop.item))
    rows = LockedRows(CascadedRows(shop.scope), names_keys=True)
    rows.lock(connection, pending)
    connection.execute(sa.insert(shop.item), {"id": 2, "name": "b"})
    with pytest.raises(CaptureError, match=r"changed 2 rows of main\.item, but only 1 .*Run the transaction again"):
        note_executed(connection, pending, rows)


def test_rows_of_other_tables_count_as_expected(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), {"id": 1, "name": "a"})
    pending = shop.pending(connection, sa.delete(shop.item))
    rows = LockedRows(CascadedRows(shop.scope), names_keys=True, counts_other_rows=True)
    rows.lock(connection, pending)
    connection.execute(sa.insert(shop.item), {"id": 2, "name": "b"})
    assert note_executed(connection, pending, rows) == [("item", "delete", [(1,)], True)]


def test_locked_rows_get_their_new_keys_from_the_statement(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    pending = shop.pending(connection, sa.update(shop.item).values(id=shop.item.c.id + 10))
    rows = LockedRows(CascadedRows(shop.scope), returned=AppendedReturning())
    rows.lock(connection, pending)
    assert note_executed(connection, pending, rows) == [
        ("item", "delete", [(1,), (2,)], True),
        ("item", "insert", [(11,), (12,)], True),
    ]


def test_children_whose_keys_change_are_noted_under_their_new_keys(shop: CapturedShop, connection: Connection) -> None:
    connection.exec_driver_sql("PRAGMA foreign_keys=ON")
    connection.execute(sa.insert(shop.owner), {"id": 1})
    connection.execute(sa.insert(shop.pet), {"owner_id": 1, "name": "cat"})
    cascades = CascadedRows(shop.scope)
    pending = shop.pending(connection, sa.update(shop.owner).where(shop.owner.c.id == 1).values(id=3))
    rows = LockedRows(cascades, new_keys=[(3,)])
    rows.lock(connection, pending)
    rows.rekeyed_through = cascades.actions.of_update(shop.owner, ["id"])
    assert pending.keys is not None
    cascades.lock(connection, pending, rows.rekeyed_through, pending.keys, delete=False)
    assert note_executed(connection, pending, rows) == [
        ("pet", "delete", [(1, "cat")], True),
        ("owner", "delete", [(1,)], True),
        ("owner", "insert", [(3,)], True),
        ("pet", "insert", [(3, "cat")], True),
    ]


def test_named_rows_that_are_locked_are_only_those_that_exist(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), [{"id": 1}, {"id": 3}])
    pending = shop.pending(
        connection,
        sa.delete(shop.item).where(shop.item.c.id == sa.bindparam("key")),
        *({"key": i} for i in (3, 2, 1, 3)),
    )
    pending.keys = ((3,), (2,), (1,), (3,))
    rows = NamedLockedRows(CascadedRows(shop.scope))
    rows.lock(connection, pending)
    assert sorted(pending.keys) == [(1,), (3,)]
    assert note_executed(connection, pending, rows) == [("item", "delete", list(pending.keys), True)]


def test_computed_keys_are_read_with_the_old_ones(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), {"id": 1})
    pending = shop.pending(connection, sa.update(shop.item).values(id=shop.item.c.id + 1))
    rows = ComputedRows(CascadedRows(shop.scope))
    rows.lock(connection, pending)
    assert note_executed(connection, pending, rows) == [
        ("item", "delete", [(1,)], True),
        ("item", "insert", [(2,)], True),
    ]


def test_computed_keys_that_do_not_exist_afterwards_are_refused(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), {"id": 1})
    pending = shop.pending(connection, sa.update(shop.item).values(id=shop.item.c.id + 1))
    rows = ComputedRows(CascadedRows(shop.scope))
    rows.lock(connection, pending)
    rows.new_keys = [(99,)]
    with pytest.raises(CaptureError, match="made other primary keys than its expressions gave"):
        note_executed(connection, pending, rows)
