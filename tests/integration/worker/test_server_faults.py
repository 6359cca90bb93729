"""A fault of the replica's server passes: the worker names it, tries again, and loses nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from fixtures.databases import NewDatabase
from rowcast.shared.errors import LoginError
from servers import Broker
from support.kafka_source import Source, column, shape
from support.worker_runs import Database, running_worker, settings_for, work_once

ITEM = shape("item", column("n"))


@dataclass
class Role:
    """The worker's role on a replica's server, and the administrator's connection."""

    admin: Database
    url: str
    name: str
    faults: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """By name: the statement that begins a fault, the statement that ends it, and the words of the warning."""

    @contextmanager
    def fault(self, name: str) -> Iterator[str]:
        """Let the server have the fault, and yield the words of the warning."""
        begin, end, words = self.faults[name]
        self.admin.execute(begin)
        try:
            self.end_sessions()
            yield words
        finally:
            self.admin.execute(end)

    def end_sessions(self) -> None:
        if self.admin.engine.dialect.name == "postgresql":
            self.admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.name}'")
            return
        query = f"SELECT id FROM information_schema.processlist WHERE user = '{self.name}'"
        with self.admin.engine.connect() as connection:
            for (id_,) in connection.exec_driver_sql(query).all():
                connection.exec_driver_sql(f"KILL {id_}")


def postgresql_role(url: str, name: str) -> Role:
    role = Role(Database(url), sa.make_url(url).set(username=name, password="x").render_as_string(False), name)
    role.admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'", f"GRANT ALL ON SCHEMA public TO {name}")
    change = f"ALTER ROLE {name}"
    role.faults = {
        "read-only": (f"{change} SET default_transaction_read_only = on", f"{change} RESET ALL", "read-only"),
        "connections": (f"{change} CONNECTION LIMIT 0", f"{change} CONNECTION LIMIT -1", "too many connections"),
        "login": (f"{change} NOLOGIN", f"{change} LOGIN", "not permitted to log in"),
    }
    return role


def mariadb_role(url: str, name: str) -> Role:
    own = sa.make_url(url).set(username=name, password="x")
    role = Role(Database(url), own.render_as_string(False), name)
    user = f"{name}@'127.0.0.1'"
    rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES"
    role.admin.execute(f"CREATE USER {user} IDENTIFIED BY 'x'", f"GRANT {rights} ON {own.database}.* TO {user}")
    change = f"ALTER USER {user}"
    role.faults = {
        "read-only": ("SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0", "read-only"),
        "login": (f"{change} ACCOUNT LOCK", f"{change} ACCOUNT UNLOCK", "locked"),
    }  # fmt: skip
    return role


@contextmanager
def new_role(engine: str, url: str) -> Iterator[Role]:
    name = f"worker_{sa.make_url(url).database}"
    role = (postgresql_role if engine == "postgresql" else mariadb_role)(url, name)
    try:
        yield role
    finally:
        role.end_sessions()
        if engine == "postgresql":
            role.admin.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")
        else:
            role.admin.execute(f"DROP USER {name}@'127.0.0.1'")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


CASES = [
    *(("postgresql", fault) for fault in ("read-only", "connections", "login")),
    *(("mariadb", fault) for fault in ("read-only", "login")),
]


@pytest.mark.parametrize(("engine", "fault"), CASES)
def test_the_worker_tries_again_until_the_fault_has_passed(
    engine: str,
    fault: str,
    new_database: NewDatabase,
    kafka: Broker,
    source_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url, source = new_database(engine), Source(kafka.bootstrap_servers, source_name)
    source.add(ITEM)
    source.transaction(("c", "item", {"id": 1, "n": 1}))
    with new_role(engine, url) as role:
        settings = settings_for(source_name, kafka.bootstrap_servers, role.url)
        with running_worker(settings) as worker:
            worker.until(lambda progress: progress.state == "consistent")
            caplog.clear()
            with caplog.at_level(logging.WARNING, "rowcast.worker"), role.fault(fault) as words:
                source.transaction(("c", "item", {"id": 2, "n": 2}))
                until(lambda: any(words in text and "Trying again in" in text for text in caplog.messages))
            until(lambda: role.admin.rows("item") == [(1, 1), (2, 2)])


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
@pytest.mark.parametrize("part", ["password", "database", "username"])
def test_a_wrong_login_is_a_wrong_configuration(
    engine: str, part: str, new_database: NewDatabase, kafka: Broker, source_name: str
) -> None:
    url = new_database(engine)
    with new_role(engine, url) as role:
        right = sa.make_url(role.url)
        wrong = {
            "password": right.set(password="wrong"),
            "database": right.set(database="none_such"),
            "username": right.set(username="nobody"),
        }[part].render_as_string(hide_password=False)
        refusal = r"replica 'copy' database at .* refuses the login: .* Correct the user, the password or"
        with pytest.raises(LoginError, match=refusal) as raised:
            work_once(settings_for(source_name, kafka.bootstrap_servers, wrong))
        assert raised.value.exit_code == 2
