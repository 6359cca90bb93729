"""Fixtures of several files' tests."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from fix_databases import NewDatabase
from integration.relay_settings import NewSettings, settings_of
from servers import Broker
from unit.relay_database import Primary, primary_at


@pytest.fixture
def primary(primary_url: str) -> Iterator[Primary]:
    """A database with the outbox tables and nothing else, on each engine."""
    with primary_at(primary_url) as primary:
        yield primary


@pytest.fixture
def lite(new_database: NewDatabase) -> Iterator[Primary]:
    """The same, where the engine makes no difference."""
    with primary_at(new_database("sqlite")) as primary:
        yield primary


@pytest.fixture
def new_settings(kafka: Broker, source_name: str) -> NewSettings:
    """Relays' settings, of one source."""
    return partial(settings_of, kafka, source_name)
