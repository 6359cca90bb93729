"""Provide fixtures for the tests of several files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from fixtures.databases import NewDatabase
from rowcast.consumer.worker import apply_loop
from servers import Broker
from support.relay.primary import Primary, primary_at
from support.relay.settings import NewSettings, settings_of


@pytest.fixture
def primary(primary_url: str) -> Iterator[Primary]:
    """Create a database with only the outbox tables, on each engine."""
    with primary_at(primary_url) as primary:
        yield primary


@pytest.fixture
def lite(new_database: NewDatabase) -> Iterator[Primary]:
    """Create a SQLite database with only the outbox tables, for tests that do not depend on the engine."""
    with primary_at(new_database("sqlite")) as primary:
        yield primary


@pytest.fixture
def new_settings(kafka: Broker, source_name: str) -> NewSettings:
    """Return a function that creates relay settings of a single source."""
    return partial(settings_of, kafka, source_name)


@pytest.fixture
def short_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker without events compare its row often. Otherwise each takeover waits five seconds for it."""
    monkeypatch.setattr(apply_loop, "_COMPARE_S", 0.2)
