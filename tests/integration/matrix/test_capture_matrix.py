"""Each change of an application arrives on the replica, for each case of the families and each engine."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

from fixtures.databases import ENGINES
from servers import Broker, DatabaseServer
from support.drivers import LIMITS, engines_of
from support.matrix.runner import CASES, Played

FAMILIES = ("unit_of_work", "bulk", "primary_keys", "foreign_keys", "identifiers", "schemas", "sql_text")
for family in FAMILIES:
    import_module(f"support.matrix.cases_{family}")


@pytest.fixture(scope="session")
def played(
    request: pytest.FixtureRequest, kafka: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Played]]:
    """Return a function that returns the played cases of an engine. The first call for an engine plays them."""
    matrices: dict[str, Played | Exception] = {}
    made: list[tuple[DatabaseServer, str]] = []

    def new_database(engine: str) -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        if engine == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp('matrix') / name}.db"
        server: DatabaseServer = request.getfixturevalue(engine)
        made.append((server, name))
        return server.create_database(name)

    def play(engine: str) -> Played:
        if engine not in matrices:
            source = f"matrix-{engine}-{uuid.uuid4().hex[:8]}"
            try:
                # Schemas of MariaDB and MySQL are databases, so that the name must be unique on the server.
                schema = f"stock_{uuid.uuid4().hex[:8]}"
                if engine in ("mariadb", "mysql"):
                    made.append((request.getfixturevalue(engine), schema))
                urls = new_database(engine), new_database(engine)
                driver = request.config.getoption("--driver")
                matrices[engine] = Played(engine, *urls, schema, kafka.bootstrap_servers, source, driver)
            except Exception as error:  # noqa: BLE001  # every test of the engine raises it
                matrices[engine] = error
        if isinstance(found := matrices[engine], Exception):
            raise found
        return found

    yield play
    for matrix in matrices.values():
        if isinstance(matrix, Played):
            matrix.close()
    for server, name in made:
        server.drop_database(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Test each case on its engines, or on those of the driver that --driver names."""
    driver: str | None = metafunc.config.getoption("--driver")
    engines = ENGINES if driver is None else engines_of(driver)
    pairs = [(engine, c.name) for c in CASES.values() for engine in c.engines if engine in engines]
    metafunc.parametrize(("engine", "name"), [_parameters(driver, *pair) for pair in pairs], ids=lambda value: value)


def _parameters(driver: str | None, engine: str, name: str) -> Any:
    """Return the parameters of a test. A case that the driver cannot play must fail."""
    reason = LIMITS.get((driver or "", engine, name))
    return pytest.param(engine, name, marks=[pytest.mark.xfail(reason=reason)] if reason else [])


def test_a_replica_has_what_the_primary_has_after(played: Callable[[str], Played], engine: str, name: str) -> None:
    played(engine).compare(name)
