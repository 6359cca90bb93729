"""Each way to get keys from an executed statement adds the right clause and reads the right keys."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection

from rowcast.producer.capture.dml.pending_statement import PendingStatement
from rowcast.producer.capture.dml.returned_keys import (
    REPORTED,
    AppendedReturning,
    ExtendedOwnReturning,
    InjectedReturning,
    KeysStoredByCte,
    LastInsertedKey,
    OwnReturning,
    ReturnedKeys,
)
from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from support.captured_tables import CapturedShop, execute_extended


def prepared(pending: PendingStatement, returned: ReturnedKeys) -> PendingStatement:
    returned.prepare(pending)
    return pending


def executed(connection: Connection, pending: PendingStatement, way: ReturnedKeys) -> Any:
    way.prepare(pending)
    return execute_extended(connection, pending, way.extend_sql)


def read(connection: Connection, pending: PendingStatement, returned: ReturnedKeys, result: Any) -> list[Any]:
    return list(returned.read(connection, pending, result, TransactionNotes()) or ())


def test_reported_keys_are_those_in_the_parameters_or_of_sqlalchemy(shop: CapturedShop, connection: Connection) -> None:
    given = shop.pending(connection, sa.insert(shop.line), {"a": 1, "b": "x"}, {"a": 2, "b": "y"})
    result = connection.execute(given.statement, given.sets)
    assert read(connection, given, REPORTED, result) == [(1, "x"), (2, "y")]
    drawn = shop.pending(connection, sa.insert(shop.item), {"name": "a"})
    result = connection.execute(drawn.statement, drawn.sets[0])
    assert read(connection, drawn, REPORTED, result) == [(1,)]


def test_keys_that_the_fast_path_has_found_count(shop: CapturedShop, connection: Connection) -> None:
    pending = shop.pending(connection, sa.insert(shop.item), {"id": 1})
    pending.keys = ((1,),)
    assert read(connection, pending, REPORTED, None) == [(1,)]


@pytest.mark.parametrize(("given", "key"), [(None, 7), (0, 7), (3, 3)])
def test_the_driver_reports_the_number_that_the_database_drew(
    shop: CapturedShop, connection: Connection, given: int | None, key: int
) -> None:
    pending = shop.pending(connection, sa.insert(shop.item), {"name": "a"})
    result = SimpleNamespace(inserted_primary_key_rows=[(given,)], lastrowid=7)
    assert read(connection, pending, LastInsertedKey(), result) == [(key,)]


@pytest.mark.parametrize("sets", [[{}], [{"name": "a"}, {"name": "b"}]], ids=["values", "parameter sets"])
def test_an_injected_returning_is_hidden(shop: CapturedShop, connection: Connection, sets: Any) -> None:
    insert = sa.insert(shop.item) if len(sets) > 1 else sa.insert(shop.item).values([{"name": "a"}, {"name": "b"}])
    way = InjectedReturning()
    pending = shop.pending(connection, insert, *sets)
    result = executed(connection, pending, way)
    assert read(connection, pending, way, result) == [(1,), (2,)]
    plain = connection.execute(insert, sets if len(sets) > 1 else sets[0])
    for name in ("returns_rows", "rowcount", "inserted_primary_key_rows", "returned_defaults_rows"):
        assert getattr(result, name) == getattr(plain, name), name
    with pytest.raises(sa.exc.ResourceClosedError, match="does not return rows"):
        result.all()


def test_keys_in_the_own_returning_stay_in_the_result(shop: CapturedShop, connection: Connection) -> None:
    statement = sa.insert(shop.item).returning(shop.item.c.name, shop.item.c.id)
    pending = prepared(shop.pending(connection, statement, {"name": "a"}), OwnReturning())
    result = connection.execute(pending.statement, pending.sets[0])
    assert read(connection, pending, OwnReturning(), result) == [(1,)]
    assert result.all() == [("a", 1)]


def test_an_own_returning_without_the_key_gives_none(shop: CapturedShop, connection: Connection) -> None:
    pending = shop.pending(connection, sa.insert(shop.item).returning(shop.item.c.name), {"name": "a"})
    result = connection.execute(pending.statement, pending.sets[0])
    assert OwnReturning().read(connection, pending, result, TransactionNotes()) is None


@pytest.mark.parametrize("names", [["a"], ["a", "b"]], ids=["one", "many"])
@pytest.mark.parametrize("ordered", [False, True])
def test_the_key_that_extends_an_own_returning_is_hidden(
    shop: CapturedShop, connection: Connection, names: list[str], ordered: bool
) -> None:
    way = ExtendedOwnReturning()
    statement = sa.insert(shop.item).returning(shop.item.c.name, sort_by_parameter_order=ordered)
    pending = shop.pending(connection, statement, *({"name": name} for name in names))
    result = executed(connection, pending, way)
    assert sorted(read(connection, pending, way, result)) == [(n + 1,) for n in range(len(names))]
    assert list(result.keys()) == ["name"]
    assert result.all() == [(name,) for name in names]


def test_keys_beside_the_values_that_the_orm_asks_for_are_hidden(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), [{"name": "a"}, {"name": "b"}])
    way = AppendedReturning()
    update = sa.update(shop.item).values(name=sa.func.lower("C")).return_defaults(shop.item.c.name)
    pending = shop.pending(connection, update)
    result = executed(connection, pending, way)
    assert read(connection, pending, way, result) == [(1,), (2,)]
    assert [row._asdict() for row in result.returned_defaults_rows] == [{"name": "c"}, {"name": "c"}]


# -- PostgreSQL


class BulkUpdateDouble:
    """Wrap every UPDATE."""

    def wrap_update(self, update: str, table: Any) -> str:
        return f"WRAPPED({update})"


def on_postgresql() -> Any:
    return SimpleNamespace(dialect=postgresql.dialect())


def executing(*, effective_returning: bool = False, no_parameters: bool = False, ctes: Any = None) -> Any:
    return SimpleNamespace(
        compiled=SimpleNamespace(effective_returning=effective_returning, ctes=ctes),
        no_parameters=no_parameters,
        execute_style=None,
        post_exec=lambda: None,
    )


def test_a_returning_is_appended_to_the_text(shop: CapturedShop, connection: Connection) -> None:
    pending = shop.pending(connection, sa.update(shop.line))
    way = AppendedReturning()
    assert way.extends_sql
    assert way.extend_sql(on_postgresql(), "UPDATE line", pending, executing()) == (
        "UPDATE line\nRETURNING line.a, line.b"
    )


@pytest.mark.parametrize(
    ("context", "wraps"),
    [(executing(), True), (executing(no_parameters=True), False), (executing(ctes=["cte"]), False)],
    ids=["with parameters", "without parameters", "with a CTE"],
)
def test_a_bulk_update_wraps_the_text_where_it_can(
    shop: CapturedShop, connection: Connection, context: Any, wraps: bool
) -> None:
    pending = shop.pending(connection, sa.update(shop.item))
    way = AppendedReturning()
    bulk_update: Any = BulkUpdateDouble()
    way.bulk_update = bulk_update
    text = way.extend_sql(on_postgresql(), "UPDATE item", pending, context)
    assert text == ("WRAPPED(UPDATE item)" if wraps else "UPDATE item\nRETURNING item.id")


def test_appended_keys_are_hidden(shop: CapturedShop, connection: Connection) -> None:
    connection.execute(sa.insert(shop.item), [{"name": "a"}, {"name": "b"}])
    way = AppendedReturning()
    pending = shop.pending(connection, sa.update(shop.item).values(name="c"))
    result = executed(connection, pending, way)
    assert read(connection, pending, way, result) == [(1,), (2,)]
    assert (result.rowcount, result.returns_rows, result.returned_defaults_rows) == (2, False, None)


class BulkUpdateOnSQLite:
    """Replace an UPDATE by a query that returns what a wrapped UPDATE would."""

    def __init__(self, query: str) -> None:
        self._query = query

    def wrap_update(self, update: str, table: Any) -> str:
        return self._query


@pytest.mark.parametrize(
    ("rows", "total", "keys", "written"),
    [
        ("SELECT 2, 1 UNION SELECT 2, 2", 2, [(1,), (2,)], False),
        ("SELECT 900, NULL", 900, [], True),
        ("SELECT 0, NULL", 0, [], False),
    ],
    ids=["few rows", "many rows", "no rows"],
)
def test_a_wrapped_update_gives_keys_or_has_written_the_outbox(
    shop: CapturedShop, connection: Connection, rows: str, total: int, keys: list[Any], written: bool
) -> None:
    pending = shop.pending(connection, sa.update(shop.item).values(name=sa.null()))
    way = AppendedReturning()
    bulk_update: Any = BulkUpdateOnSQLite(rows)
    way.bulk_update = bulk_update
    notes = TransactionNotes()
    result = executed(connection, pending, way)
    assert list(way.read(connection, pending, result, notes) or ()) == keys
    assert notes.outbox_written == written
    assert (result.rowcount, result.returns_rows) == (total, False)


def test_keys_stored_by_a_cte_are_read_from_the_setting(
    shop: CapturedShop, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rowcast.producer.capture.dml.ctes.stored_keys",
        lambda _connection, setting, columns: ((setting, *(column.name for column in columns)),),
    )
    pending = shop.pending(connection, sa.delete(shop.line))
    assert read(connection, pending, KeysStoredByCte("rowcast.keys_0"), None) == [("rowcast.keys_0", "a", "b")]
