"""The capture chooses the right way to determine the keys of an INSERT."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from rowcast.producer.capture.dml.cascaded_rows import CascadedRows
from rowcast.producer.capture.dml.changed_rows import InsertedRows
from rowcast.producer.capture.dml.insert_keys import InsertKeys
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.dml.returned_keys import (
    ExtendedOwnReturning,
    InjectedReturning,
    KeysStoredByCte,
    LastInsertedKey,
    OwnReturning,
    ReportedKeys,
)
from rowcast.producer.database.dialects import capture_dialect
from rowcast.shared.errors import CaptureError
from support.captured_tables import CapturedShop


def choose(shop: CapturedShop, connection: Connection, pending: PendingStatement) -> Any:
    statement: Any = pending.statement
    return InsertKeys(CascadedRows(shop.scope), shop.scope).choose(connection, pending, statement)


def chosen(shop: CapturedShop, connection: Connection, statement: Any, *sets: dict[str, Any]) -> type:
    pending = shop.pending(connection, statement, *sets)
    assert choose(shop, connection, pending) is None
    assert isinstance(pending.rows, InsertedRows)
    return type(pending.rows.returned)


def test_keys_that_are_given_or_drawn_for_one_row_are_reported(shop: CapturedShop, connection: Connection) -> None:
    assert chosen(shop, connection, sa.insert(shop.line), {"a": 1, "b": "x"}, {"a": 2, "b": "y"}) is ReportedKeys
    assert chosen(shop, connection, sa.insert(shop.item), {"name": "a"}) is ReportedKeys


def test_drawn_keys_of_several_rows_are_returned(shop: CapturedShop, connection: Connection) -> None:
    assert chosen(shop, connection, sa.insert(shop.item), {"name": "a"}, {"name": "b"}) is InjectedReturning
    assert chosen(shop, connection, sa.insert(shop.item).values([{"name": "a"}, {"name": "b"}])) is InjectedReturning
    from_select = sa.insert(shop.item).from_select(["name"], sa.select(shop.audited.c.name))
    assert chosen(shop, connection, from_select) is InjectedReturning


def test_an_own_returning_is_used_or_extended(shop: CapturedShop, connection: Connection) -> None:
    with_key = sa.insert(shop.item).returning(shop.item)
    assert chosen(shop, connection, with_key, {"name": "a"}) is OwnReturning
    without_key = sa.insert(shop.item).returning(shop.item.c.name)
    assert chosen(shop, connection, without_key, {"name": "a"}) is ExtendedOwnReturning
    assert chosen(shop, connection, without_key, {"id": 1, "name": "a"}) is ReportedKeys
    of_the_orm: Any = without_key._annotate({"dml_strategy": "core_only"})
    assert chosen(shop, connection, of_the_orm, {"name": "a"}) is ExtendedOwnReturning


def test_dml_in_a_cte_stores_its_keys(shop: CapturedShop, connection: Connection) -> None:
    pending = shop.pending(connection, sa.insert(shop.item).returning(shop.item.c.id), {"name": "a"})
    pending.setting = "rowcast.keys_0"
    assert choose(shop, connection, pending) is None
    assert isinstance(pending.rows, InsertedRows)
    assert isinstance(pending.rows.returned, KeysStoredByCte)


def test_without_returning_the_driver_reports_the_key_of_one_inline_row(
    shop: CapturedShop, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.engine.dialect, "insert_returning", False)
    assert chosen(shop, connection, sa.insert(shop.item).inline(), {"name": "a"}) is LastInsertedKey


def test_a_zero_for_which_the_database_draws_a_key_is_not_the_key(
    shop: CapturedShop, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(capture_dialect(shop.engine.dialect)), "draws_key_for_zero", True)
    assert chosen(shop, connection, sa.insert(shop.item), {"id": 0}) is InjectedReturning
    assert chosen(shop, connection, sa.insert(shop.item), {"id": 1}) is ReportedKeys
    monkeypatch.setattr(shop.engine.dialect, "insert_returning", False)
    assert chosen(shop, connection, sa.insert(shop.item), {"id": 0}) is LastInsertedKey


def test_without_returning_several_rows_are_executed_one_by_one(
    shop: CapturedShop, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.engine.dialect, "insert_returning", False)
    pending = shop.pending(connection, sa.insert(shop.item), {"name": "a"}, {"name": "b"})
    assert [parameters for _, parameters in choose(shop, connection, pending)] == [{"name": "a"}, {"name": "b"}]


def test_without_returning_an_insert_from_a_select_is_refused(
    shop: CapturedShop, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.engine.dialect, "insert_returning", False)
    statement = sa.insert(shop.item).from_select(["name"], sa.select(shop.audited.c.name))
    with pytest.raises(CaptureError, match="an INSERT from a SELECT whose keys are not returned"):
        choose(shop, connection, shop.pending(connection, statement))


def test_rows_that_a_replace_deletes_are_locked_before(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), [{"id": 1}, {"id": 2}])
    pending = shop.pending(connection, sa.insert(shop.item).prefix_with("OR REPLACE"), {"id": 2}, {"id": 3})
    choose(shop, connection, pending)
    assert [(table.table, list(keys)) for table, keys in pending.side_effects] == [(shop.item, [(2,)])]


def test_an_upsert_that_returns_its_keys_reads_nothing_before(shop: CapturedShop, connection: Connection) -> None:
    statement = sqlite.insert(shop.item).on_conflict_do_update(index_elements=["id"], set_={"name": "b"})
    pending = shop.pending(connection, statement, {"id": 2, "name": "a"})
    choose(shop, connection, pending)
    assert pending.side_effects == ()


def test_an_upsert_with_before_images_reads_the_conflicting_rows(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.audited), {"id": 2})
    statement = sqlite.insert(shop.audited).on_conflict_do_update(index_elements=["id"], set_={"name": "b"})
    pending = shop.pending(connection, statement, {"id": 2, "name": "a"})
    choose(shop, connection, pending)
    assert [list(keys) for _, keys in pending.side_effects] == [[(2,)]]


def upsert(shop: CapturedShop, elements: list[str], **assigned: Any) -> sqlite.Insert:
    return sqlite.insert(shop.item).on_conflict_do_update(index_elements=elements, set_=assigned)


@pytest.mark.parametrize("case", ["drawn", "computed", "other index", "new key", "condition", "nothing", "prefix"])
def test_an_upsert_that_may_change_another_row_or_none_returns_keys(
    shop: CapturedShop, connection: Connection, case: str
) -> None:
    statement = upsert(shop, ["id"], name="b")
    given: dict[str, Any] = {"id": 2, "name": "a"}
    match case:
        case "drawn":
            given = {"name": "a"}
        case "computed":
            statement, given = statement.values(id=sa.literal(1) + 1), {"name": "a"}
        case "other index":
            statement = upsert(shop, ["name"], name="b")
        case "new key":
            statement = upsert(shop, ["id"], id=9)
        case "condition":
            statement = sqlite.insert(shop.item).on_conflict_do_update(
                index_elements=["id"], set_={"name": "b"}, where=shop.item.c.name != "done"
            )
        case "nothing":
            statement = sqlite.insert(shop.item).on_conflict_do_nothing(index_elements=["id"])
        case "prefix":
            statement = statement.prefix_with("OR IGNORE")
    pending = shop.pending(connection, statement, given)
    choose(shop, connection, pending)
    assert isinstance(pending.rows, InsertedRows)
    assert isinstance(pending.rows.returned, InjectedReturning)
