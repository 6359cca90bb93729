"""What an application does to its rows arrives on the replica: each case of the families, on each engine."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest

from integration.matrix.stage import CASES, Played
from servers import Broker, DatabaseServer

FAMILIES = ("unit_of_work", "bulk", "keys", "cascades", "names", "schemas", "by_hand")
for family in FAMILIES:
    import_module(f"integration.matrix.{family}")


@pytest.fixture(scope="session")
def played(
    request: pytest.FixtureRequest, kafka: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Played]]:
    """A function: an engine's name in, its cases out; they are played when they are first asked for."""
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
                # MariaDB's schemas are databases: this one's name is nobody else's.
                schema = f"stock_{uuid.uuid4().hex[:8]}"
                if engine == "mariadb":
                    made.append((request.getfixturevalue(engine), schema))
                matrices[engine] = Played(
                    engine, new_database(engine), new_database(engine), schema, kafka.bootstrap_servers, source
                )
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


@pytest.mark.parametrize(
    ("engine", "name"), [(engine, c.name) for c in CASES.values() for engine in c.engines], ids=lambda value: value
)
def test_a_replica_has_what_the_primary_has_after(played: Callable[[str], Played], engine: str, name: str) -> None:
    played(engine).compare(name)
