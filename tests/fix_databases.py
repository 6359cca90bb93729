"""Fresh databases of every engine."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servers import DatabaseServer

ENGINES = ("postgresql", "mariadb", "sqlite")

NewDatabase = Callable[[str], str]


@pytest.fixture
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewDatabase]:
    """Makes an empty database of the engine named and returns its SQLAlchemy URL. It is dropped after the test."""
    made: list[tuple[DatabaseServer, str]] = []

    def make(engine: str) -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        if engine == "sqlite":
            return f"sqlite:///{tmp_path / name}.db"
        server = request.getfixturevalue(engine)
        assert isinstance(server, DatabaseServer)
        made.append((server, name))
        return server.create_database(name)

    yield make
    for server, name in made:
        server.ensure_running()
        server.drop_database(name)


@pytest.fixture(params=ENGINES)
def primary_url(request: pytest.FixtureRequest, new_database: NewDatabase) -> str:
    """A fresh primary database, once for each engine."""
    return new_database(request.param)


@pytest.fixture(params=ENGINES)
def replica_url(request: pytest.FixtureRequest, new_database: NewDatabase) -> str:
    """A fresh replica database, once for each engine."""
    return new_database(request.param)
