"""Provide the tables of the capture's unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.engine import Connection

from support.captured_tables import CapturedShop


@pytest.fixture
def shop() -> Iterator[CapturedShop]:
    """Create captured tables in a new database."""
    shop = CapturedShop()
    yield shop
    shop.close()


@pytest.fixture
def connection(shop: CapturedShop) -> Iterator[Connection]:
    """Connect to the shop without listeners."""
    with shop.connect() as connection:
        yield connection
