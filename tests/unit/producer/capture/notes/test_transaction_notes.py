"""The notes of a transaction are folded, and follow the transaction's savepoints."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import Connection

from rowcast.producer.capture.notes.folding import EXISTED, LOCKED, MAY_BE_GONE, NEVER_FOUND, Touch
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.errors import CaptureError
from support.captured_tables import CapturedShop, noted


@pytest.fixture
def item(shop: CapturedShop, connection: Connection) -> CapturedTable:
    return shop.captured(connection, shop.item)


def test_the_first_touch_says_whether_a_row_existed(item: CapturedTable) -> None:
    notes = TransactionNotes()
    notes.note(item, Touch.INSERT, [(1,)], locked=True)
    notes.note(item, Touch.DELETE, [(1,), (2,)], locked=False)
    notes.note(item, Touch.INSERT, [(2,), (3,)], locked=True)
    assert notes.fold() == {item: {(1,): LOCKED | MAY_BE_GONE, (2,): EXISTED | LOCKED, (3,): LOCKED}}


def test_a_row_that_was_left_in_the_table_must_be_there(item: CapturedTable) -> None:
    notes = TransactionNotes()
    notes.note(item, Touch.UPDATE, [(1,), (2,), (3,)], locked=True)
    notes.note(item, Touch.UPDATE, [(1,)], locked=False)
    notes.note(item, Touch.DELETE, [(2,), (3,)], locked=True)
    notes.note(item, Touch.UPDATE, [(2,)], locked=False)
    notes.note(item, Touch.INSERT, [(3,)], locked=True)
    there = EXISTED | LOCKED
    assert notes.fold() == {item: {(1,): there, (2,): there | MAY_BE_GONE, (3,): there}}


def test_a_row_that_no_statement_found_did_not_exist(item: CapturedTable) -> None:
    notes = TransactionNotes()
    notes.note(item, Touch.UPDATE, [(1,), (2,), (3,)], locked=False)
    notes.note(item, Touch.INSERT, [(2,)], locked=True)
    notes.note(item, Touch.DELETE, [(3,)], locked=True)
    flags = {(1,): EXISTED | MAY_BE_GONE | NEVER_FOUND, (2,): LOCKED, (3,): EXISTED | LOCKED | MAY_BE_GONE}
    assert notes.fold() == {item: flags}


def test_a_row_of_an_insert_that_may_have_failed_may_have_existed(item: CapturedTable) -> None:
    notes = TransactionNotes()
    notes.note(item, Touch.INSERT, [(1,), (2,)], locked=False)
    notes.note(item, Touch.NAMED, [(3,)], locked=False)
    notes.note(item, Touch.INSERT, [(4,)], locked=False)
    notes.note(item, Touch.DELETE, [(1,), (3,)], locked=True)
    notes.note(item, Touch.UPDATE, [(4,)], locked=True)
    gone = LOCKED | MAY_BE_GONE
    assert notes.fold() == {
        item: {(1,): EXISTED | gone, (2,): MAY_BE_GONE | NEVER_FOUND, (3,): gone, (4,): EXISTED | LOCKED}
    }


def test_an_equal_key_may_be_gone_if_any_row_of_the_table_may_be_gone(item: CapturedTable) -> None:
    notes = TransactionNotes()
    notes.note(item, Touch.UPDATE_EQUAL, [(1,), (2,)], locked=True)
    there, gone = EXISTED | LOCKED, EXISTED | LOCKED | MAY_BE_GONE
    assert notes.fold() == {item: {(1,): there, (2,): there}}
    notes.note(item, Touch.DELETE, [(2,), (3,)], locked=True)
    assert notes.fold() == {item: {(1,): gone | NEVER_FOUND, (2,): gone, (3,): gone}}


def test_a_statement_that_the_capture_does_not_know_may_have_deleted_the_rows_noted_before(
    item: CapturedTable,
) -> None:
    notes = TransactionNotes()
    notes.note(item, Touch.UPDATE, [(1,), (2,)], locked=True)
    notes.note_unseen_change()
    notes.note(item, Touch.UPDATE, [(2,), (3,)], locked=True)
    there = EXISTED | LOCKED
    assert notes.fold() == {item: {(1,): there | MAY_BE_GONE, (2,): there, (3,): there}}
    notes.note_unseen_change()
    assert set(notes.fold()[item].values()) == {there | MAY_BE_GONE}


def test_a_table_that_is_described_again_stays_the_same_table(shop: CapturedShop, item: CapturedTable) -> None:
    again = CapturedTable(shop.item, shop.engine.dialect, "main")
    notes = TransactionNotes()
    notes.note(item, Touch.INSERT, [(1,)], locked=True)
    notes.remember_before_images(again, {(1,): "{}", (2,): "{}"})
    notes.note(again, Touch.DELETE, [(1,), (2,)], locked=True)
    gone = LOCKED | MAY_BE_GONE
    assert notes.fold() == {again: {(1,): gone, (2,): EXISTED | gone}}
    assert notes.before_images() == {again: {(2,): "{}"}}


def test_no_keys_make_no_entry(item: CapturedTable) -> None:
    notes = TransactionNotes()
    notes.note(item, Touch.UPDATE, [], locked=True)
    assert not notes.entries


def test_a_rolled_back_savepoint_takes_its_notes_along(item: CapturedTable) -> None:
    notes = TransactionNotes()
    notes.note(item, Touch.UPDATE, [(1,)], locked=True)
    notes.savepoint("outer")
    notes.note(item, Touch.UPDATE, [(2,), (3,)], locked=True)
    notes.savepoint("inner")
    notes.note(item, Touch.UPDATE, [(4,)], locked=True)
    notes.rollback_to("outer")
    assert noted(notes) == [("item", "update", [(1,)], True)]
    assert notes.key_count == 1
    assert not notes.in_savepoint


def test_a_released_savepoint_keeps_its_notes(item: CapturedTable) -> None:
    notes = TransactionNotes()
    notes.savepoint("a")
    notes.note(item, Touch.UPDATE, [(1,)], locked=True)
    notes.release("a")
    assert notes.key_count == 1
    assert not notes.in_savepoint


def test_a_refusal_ends_with_the_savepoint_of_its_statement() -> None:
    notes = TransactionNotes()
    notes.savepoint("outer")
    notes.savepoint("inner")
    notes.refuse_commit(CaptureError("refused"))
    notes.release("inner")
    with pytest.raises(CaptureError, match="refused"):
        notes.raise_refusal()
    notes.rollback_to("outer")
    notes.raise_refusal()


def test_a_before_image_counts_only_before_the_first_touch(item: CapturedTable) -> None:
    notes = TransactionNotes()
    notes.remember_before_images(item, {(1,): "first"})
    notes.note(item, Touch.UPDATE, [(1,)], locked=True)
    notes.remember_before_images(item, {(1,): "changed", (2,): "second"})
    assert notes.before_images() == {item: {(1,): "first", (2,): "second"}}


def test_drained_notes_are_removed_unless_a_savepoint_is_open(item: CapturedTable) -> None:
    notes = TransactionNotes()
    notes.savepoint("a")
    notes.note(item, Touch.UPDATE, [(1,)], locked=True)
    notes.clear_drained()
    assert notes.key_count == 1
    notes.release("a")
    notes.clear_drained()
    assert not notes.entries
    assert notes.key_count == 0
