"""A TRUNCATE on PostgreSQL becomes a delete of each row, together with the statements around it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from integration.capture.conftest import NewShop
from rowcast.producer.capture import row_hints
from rowcast.shared.errors import CaptureError
from support.shop import Shop


@pytest.fixture
def shop(borrow_shop: NewShop) -> Shop:
    shop = borrow_shop("postgresql", strict="raise")
    with shop.sessions.begin() as session:
        customer = shop.models.Customer(id=1, name="Ann")
        tags = [shop.models.Tag(id=n, name=f"tag {n}") for n in range(1, 4)]
        session.add_all([customer, *tags, shop.models.Order(id=1, customer=customer, amount=1, tags=tags[:2])])
    shop.take()
    return shop


def operations(shop: Shop) -> list[tuple[str, str, int]]:
    return sorted((c["t"].split(".")[-1], c["op"], next(iter(c["k"].values()))) for c in shop.take(strict=True))


GONE = [("order_tags", "d", 1), ("order_tags", "d", 1)]


@pytest.mark.parametrize(
    "sql",
    [
        "TRUNCATE order_tags",
        "truncate table only order_tags continue identity restrict;",
        "/* all */ TRUNCATE public.order_tags * RESTART IDENTITY",
    ],
)
def test_each_row_becomes_a_delete(sql: str, shop: Shop) -> None:
    with shop.sessions.begin() as session:
        session.execute(sa.text(sql))
    assert operations(shop) == GONE
    assert shop.mirror == shop.rows()


def test_the_rows_of_other_tables_follow_a_cascade(shop: Shop) -> None:
    with shop.sessions.begin() as session:
        session.execute(sa.text("TRUNCATE tags CASCADE"))
    assert operations(shop) == [*GONE, *(("tags", "d", n) for n in (1, 2, 3))]


def test_a_row_that_comes_back_is_no_delete_and_a_rollback_undoes_all(shop: Shop) -> None:
    with shop.sessions.begin() as session:
        session.add(shop.models.Tag(id=4, name="never"))
        session.flush()
        session.execute(sa.text("TRUNCATE tags, order_tags"))
        session.add(shop.models.Tag(id=2, name="again"))
        session.flush()
        with session.begin_nested() as savepoint:
            session.execute(sa.text("TRUNCATE orders, order_tags"))
            savepoint.rollback()
    changes = {(c["t"].split(".")[-1], next(iter(c["k"].values()))): c["op"] for c in shop.take()}
    # A row that was never committed may have a delete, which does no harm.
    changes.pop(("tags", 4), None)
    assert changes == {("tags", 1): "d", ("tags", 2): "u", ("tags", 3): "d", ("order_tags", 1): "d"}
    assert shop.mirror == shop.rows()


def test_a_large_table_and_a_text_with_more_in_it_are_refused_or_warned_of(
    shop: Shop, borrow_shop: NewShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_hints, "MOST_ROWS", 2)
    with shop.sessions() as session, pytest.raises(CaptureError, match=r"SQL text changes public\.tags"):
        session.execute(sa.text("TRUNCATE tags CASCADE"))
    with shop.sessions() as session, pytest.raises(CaptureError, match="SQL text changes"):
        session.execute(sa.text("TRUNCATE order_tags; SELECT 1"))
