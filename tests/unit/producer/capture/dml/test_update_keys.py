"""The capture chooses the right way to determine the keys of an UPDATE or DELETE."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.capture.dml.cascaded_rows import CascadedRows
from rowcast.producer.capture.dml.changed_rows import (
    NAMED,
    NamedRows,
    ReturnedRows,
)
from rowcast.producer.capture.dml.locked_rows import ComputedRows, LockedRows, NamedLockedRows
from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.dml.returned_keys import AppendedReturning, KeysStoredByCte
from rowcast.producer.capture.dml.update_keys import UpdateKeys
from rowcast.producer.database.dialects import capture_dialect
from support.captured_tables import CapturedShop

KEY: Any = sa.bindparam("key")


def choose(shop: CapturedShop, connection: Connection, pending: PendingStatement) -> Any:
    statement: Any = pending.statement
    return UpdateKeys(CascadedRows(shop.scope), shop.scope).choose(connection, pending, statement)


def chosen(shop: CapturedShop, connection: Connection, statement: Any, *sets: dict[str, Any]) -> PendingStatement:
    pending = shop.pending(connection, statement, *sets)
    assert choose(shop, connection, pending) is None
    return pending


@pytest.fixture
def row_locks(shop: CapturedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the capture follow the rules for engines with row locks."""
    monkeypatch.setattr(type(capture_dialect(shop.engine.dialect)), "has_row_locks", True)


def test_keys_in_the_parameters_are_not_read(shop: CapturedShop, connection: Connection) -> None:
    update = sa.update(shop.item).where(shop.item.c.id == KEY).values(name="b")
    pending = chosen(shop, connection, update, {"key": 1}, {"key": 2})
    assert pending.rows is NAMED
    assert pending.keys == ((1,), (2,))


def test_new_keys_that_values_name_are_not_read(shop: CapturedShop, connection: Connection) -> None:
    update = sa.update(shop.item).where(shop.item.c.id == KEY).values(id=9)
    pending = chosen(shop, connection, update, {"key": 1})
    assert type(pending.rows) is NamedRows
    assert pending.rows is not NAMED


@pytest.mark.usefixtures("row_locks")
def test_several_named_keys_that_go_away_are_locked(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), {"id": 2})
    delete = sa.delete(shop.item).where(shop.item.c.id == KEY)
    pending = chosen(shop, connection, delete, {"key": 1}, {"key": 2})
    assert type(pending.rows) is NamedLockedRows
    assert pending.keys == ((2,),)
    assert chosen(shop, connection, delete, {"key": 1}).rows is NAMED


def test_rows_that_a_condition_finds_are_returned(shop: CapturedShop, connection: Connection) -> None:
    for statement in (sa.update(shop.item).values(name="b"), sa.delete(shop.item)):
        pending = chosen(shop, connection, statement)
        assert isinstance(pending.rows, ReturnedRows)
        assert isinstance(pending.rows.returned, AppendedReturning)
        assert pending.statement is statement


def test_rows_are_locked_where_the_statement_cannot_return_them(
    shop: CapturedShop, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.engine.dialect, "update_returning", False)
    connection.execute(sa.insert(shop.item), {"id": 2})
    pending = chosen(shop, connection, sa.update(shop.item).values(name="b"))
    assert type(pending.rows) is LockedRows
    assert pending.keys == ((2,),)


def test_rows_whose_before_images_are_wanted_are_locked(shop: CapturedShop, connection: Connection) -> None:
    pending = chosen(shop, connection, sa.update(shop.audited).values(name="b"))
    assert type(pending.rows) is LockedRows


def test_keys_that_the_statement_computes_are_returned_if_possible(
    shop: CapturedShop, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = sa.update(shop.item).values(id=shop.item.c.id + 1)
    returning = chosen(shop, connection, update)
    assert type(returning.rows) is LockedRows
    assert isinstance(returning.rows.returned, AppendedReturning)
    monkeypatch.setattr(shop.engine.dialect, "update_returning", False)
    assert type(chosen(shop, connection, update).rows) is ComputedRows


def test_several_statements_that_compute_keys_are_executed_one_by_one(
    shop: CapturedShop, connection: Connection
) -> None:
    update = sa.update(shop.item).where(shop.item.c.id == KEY).values(id=shop.item.c.id + 1)
    pending = shop.pending(connection, update, {"key": 1}, {"key": 2})
    assert choose(shop, connection, pending) == [(update, {"key": 1}), (update, {"key": 2})]


def test_rows_that_cascade_are_locked_with_their_children(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.owner), {"id": 1})
    connection.execute(sa.insert(shop.pet), {"owner_id": 1, "name": "cat"})
    delete = chosen(shop, connection, sa.delete(shop.owner).where(shop.owner.c.id == KEY), {"key": 1})
    assert type(delete.rows) is LockedRows
    assert not delete.rows.rekeyed_through
    assert [(table.table, list(keys)) for table, keys in delete.side_effects] == [(shop.pet, [(1, "cat")])]
    update = chosen(shop, connection, sa.update(shop.owner).where(shop.owner.c.id == KEY).values(id=2), {"key": 1})
    assert type(update.rows) is LockedRows
    assert update.rows.rekeyed_through
    assert update.rows.new_keys == ((2,),)


def test_dml_in_a_cte_stores_its_keys(shop: CapturedShop, connection: Connection) -> None:
    pending = shop.pending(connection, sa.delete(shop.item).where(shop.item.c.id == KEY), {"key": 1})
    pending.setting = "rowcast.keys_0"
    assert choose(shop, connection, pending) is None
    assert isinstance(pending.rows, ReturnedRows)
    assert isinstance(pending.rows.returned, KeysStoredByCte)
    rekeyed = shop.pending(connection, sa.update(shop.item).values(id=5))
    rekeyed.setting = "rowcast.keys_0"
    assert choose(shop, connection, rekeyed) is None
    assert type(rekeyed.rows) is LockedRows
    assert isinstance(rekeyed.rows.returned, KeysStoredByCte)
