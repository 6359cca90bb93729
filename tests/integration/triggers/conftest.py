"""Provide fixtures for the tests of triggers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from support.lent_shops import TriggerShopLender
from support.registry import Registry
from support.trigger_shop import TriggerShop, plain_engine

ENGINES = ("postgresql", "mariadb", "sqlite")

NewTriggerShop = Callable[[str], TriggerShop]


@pytest.fixture(params=ENGINES)
def primary_url(request: pytest.FixtureRequest, new_database: NewDatabase) -> str:
    """Return the URL of a fresh primary, once for each engine with triggers."""
    return new_database(request.param)


@pytest.fixture(scope="session")
def trigger_shop_lender(new_lasting_database: NewDatabase) -> TriggerShopLender:
    return TriggerShopLender(new_lasting_database)


@pytest.fixture
def borrow_shop(trigger_shop_lender: TriggerShopLender) -> Iterator[NewTriggerShop]:
    """Return `TriggerShopLender.lend` without its block."""
    with ExitStack() as stack:
        yield lambda engine: stack.enter_context(trigger_shop_lender.lend(engine))


@pytest.fixture
def registry(new_database: NewDatabase) -> Iterator[Registry]:
    engine = plain_engine(sa.make_url(new_database("postgresql")))
    yield Registry(engine)
    engine.dispose()


@pytest.fixture
def new_role(registry: Registry) -> Iterator[Callable[..., str]]:
    """Return a function to create a role. It takes statements with the role as ``{}``."""
    roles = []

    def create(*statements: str, options: str = "LOGIN") -> str:
        role = f"role_{random.randrange(10**9)}"
        registry.execute(f"CREATE ROLE {role} {options}")
        roles.append(role)
        registry.execute(*(statement.format(role) for statement in statements))
        return role

    yield create
    for role in roles:
        registry.execute(f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")
