"""Provide shops for the tests of the capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from fixtures.databases import ENGINES, NewDatabase
from support.lent_shops import ShopLender
from support.shop import Shop

NewShop = Callable[..., Shop]


@pytest.fixture(scope="session")
def shop_lender(new_lasting_database: NewDatabase) -> ShopLender:
    return ShopLender(new_lasting_database)


@pytest.fixture
def borrow_shop(shop_lender: ShopLender) -> Iterator[NewShop]:
    """Return `ShopLender.lend` without its block."""
    with ExitStack() as stack:
        yield lambda engine, **options: stack.enter_context(shop_lender.lend(engine, **options))


@pytest.fixture(params=ENGINES)
def shop(request: pytest.FixtureRequest, borrow_shop: NewShop) -> Shop:
    """Borrow a shop, once for each engine."""
    return borrow_shop(request.param)


@pytest.fixture(params=ENGINES)
def warm_shop(request: pytest.FixtureRequest, shop_lender: ShopLender) -> Iterator[Shop]:
    """Borrow a shop whose capture has seen other tests, once for each engine."""
    with shop_lender.lend_warm(request.param) as shop:
        yield shop
