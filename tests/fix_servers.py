"""The real servers as fixtures.

They start when the collection shows that a test will ask for them, all at once, and end with the session.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator

import pytest

from servers import SERVERS, Broker, Connect, MariaDB, PostgreSQL, Servers
from servers.install import install

_servers = pytest.StashKey[Servers]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_servers] = Servers()


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    wanted = sorted({name for item in session.items for name in _servers_of(item)})
    if wanted:
        # Before the first test, whose time limit is not meant for it.
        install(*wanted)
        session.config.stash[_servers].start(*wanted)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kafka" in _servers_of(item):
            item.add_marker("kafka")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_servers].close()


def _servers_of(item: pytest.Item) -> set[str]:
    """By a fixture's name, or by a parameter's value: `kafka`, `primary_url[postgresql]`."""
    callspec = getattr(item, "callspec", None)
    parameters = callspec.params.values() if callspec else ()
    fixtures = getattr(item, "fixturenames", ())
    return {name for name in (*fixtures, *parameters) if isinstance(name, str) and name in SERVERS}


@pytest.fixture(autouse=True)
def _servers_survive_the_test(pytestconfig: pytest.Config) -> Iterator[None]:
    yield
    pytestconfig.stash[_servers].ensure_running()


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Broker:
    """A real broker; topics are told apart by `source_name`."""
    return pytestconfig.stash[_servers].kafka()


@pytest.fixture(scope="session")
def postgresql(pytestconfig: pytest.Config) -> PostgreSQL:
    return pytestconfig.stash[_servers].postgresql()


@pytest.fixture(scope="session")
def mariadb(pytestconfig: pytest.Config) -> MariaDB:
    return pytestconfig.stash[_servers].mariadb()


@pytest.fixture(scope="session")
def connect(pytestconfig: pytest.Config, kafka: Broker) -> Connect:
    """Kafka Connect with Debezium's JDBC sink, on the broker ``kafka``."""
    return pytestconfig.stash[_servers].connect()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is held and refuses: nobody else can open it while the test runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def source_name(request: pytest.FixtureRequest) -> str:
    """A source of this test's own, so that its topics are its own too."""
    test = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in request.node.name)
    return f"{test[:40].strip('-')}-{uuid.uuid4().hex[:8]}"
