"""Run application, relay, workers and the reading commands with the database users of docker-compose.yml."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml
from sqlalchemy import exc
from sqlalchemy.orm import sessionmaker

from rowcast.producer import Capture
from rowcast.producer.demo.models import Base
from rowcast.producer.demo.traffic import Shop
from servers import Broker
from servers.paths import REPOSITORY
from support.command_line import rowcast

EXAMPLES = REPOSITORY / "examples/compose"
SERVICES = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]


class Place:
    """Put real databases in place of the services."""

    def __init__(self, new_database: Callable[[str], str], kafka: Broker, source: str) -> None:
        self.administrators = {
            service: sa.make_url(new_database(engine))
            for service, engine in (
                ("primary", "postgresql"), ("replica-postgresql", "postgresql"), ("replica-mariadb", "mariadb"),
            )
        }  # fmt: skip
        self._kafka = kafka.bootstrap_servers
        self.source = source

    def run_script(self, service: str, name: str, as_user: str | None = None) -> None:
        """Run an SQL script that docker-compose.yml mounts into a service."""
        url = self.administrators[service]
        text = (EXAMPLES / name).read_text().replace("ON shop.*", f"ON {url.database}.*")
        lines = [line for line in text.splitlines() if not line.startswith("--")]
        engine = sa.create_engine(as_user or url)
        with engine.begin() as connection:
            for statement in filter(str.strip, "\n".join(lines).split(";")):
                # The primary and the replica of the tests are on one server, and share the reader.
                if not (
                    statement.strip().startswith("CREATE ROLE") and self._has_role(connection, statement.split()[2])
                ):
                    connection.exec_driver_sql(statement)
        engine.dispose()

    @staticmethod
    def _has_role(connection: sa.Connection, role: str) -> bool:
        return connection.scalar(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :r"), {"r": role}) is not None

    def fill(self, text: str) -> str:
        """Return a text of docker-compose.yml or of its configuration with the addresses of real servers."""
        for service, url in self.administrators.items():
            text = text.replace(f"@{service}/shop", f"@{url.host}:{url.port}/{url.database}")
        return text.replace("kafka:9092", self._kafka).replace('source = "shop"', f'source = "{self.source}"')

    def environment(self, service: str) -> dict[str, str]:
        """Return the URLs of databases that a service gets by its environment."""
        variables = SERVICES[service]["environment"]
        return {name: self.fill(value) for name, value in variables.items() if name.endswith("URL")}

    def drop_roles(self) -> None:
        roles = ("shop_owner", "shop_app", "rowcast_relay", "rowcast_worker", "rowcast_reader")
        for url in self.administrators.values():
            engine = sa.create_engine(url)
            with engine.begin() as connection:
                for role in roles:
                    if url.get_backend_name() != "postgresql":
                        connection.exec_driver_sql(f"DROP USER IF EXISTS {role}")
                    elif self._has_role(connection, role):
                        connection.exec_driver_sql(f"DROP OWNED BY {role}")
            engine.dispose()
        engine = sa.create_engine(self.administrators["primary"])
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP ROLE IF EXISTS {', '.join(roles)}")
        engine.dispose()


@pytest.fixture
def place(new_database: Callable[[str], str], kafka: Broker, source_name: str) -> Iterator[Place]:
    place = Place(new_database, kafka, source_name)
    try:
        yield place
    finally:
        place.drop_roles()


def refused(url: str, *statements: str) -> list[str]:
    """Return the statements that the user of ``url`` may not run."""
    engine, found = sa.create_engine(url), []
    for statement in statements:
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql(statement)
        except (exc.ProgrammingError, exc.OperationalError):
            found.append(statement)
    engine.dispose()
    return found


def test_each_user_has_the_rights_that_it_needs_and_no_others(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rowcast.toml").write_text(place.fill((EXAMPLES / "rowcast.toml").read_text()))
    owner, app = (place.environment(service)["DATABASE_URL"] for service in ("tables", "app"))
    place.run_script("primary", "primary-roles.sql")
    place.run_script("replica-postgresql", "replica-postgresql.sql")
    place.run_script("replica-mariadb", "replica-mariadb.sql")
    monkeypatch.setenv("DATABASE_URL", owner)
    monkeypatch.setenv("ROWCAST_SOURCE", place.source)
    monkeypatch.setattr(sys, "argv", SERVICES["tables"]["command"][1:])
    runpy.run_path(str(REPOSITORY / "examples/shop/app.py"), run_name="__main__")
    place.run_script("primary", "primary-rights.sql", as_user=owner)

    engine = sa.create_engine(app)
    sessions = sessionmaker(engine)
    Capture(Base.metadata, source=place.source).install(sessions)
    Base.metadata.create_all(engine)
    shop = Shop(sessions, seed=1)
    shop.open()
    trade = shop.trade()
    for _ in range(10):
        next(trade)
    engine.dispose()

    def run(*arguments: str, service: str | None = None) -> str:
        environment = place.environment(service) if service else {}
        done = rowcast(*arguments, cwd=tmp_path, env=environment)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    run("relay", "--once", service="relay")
    for replica in ("reporting", "archive"):
        run("worker", replica, "--once", service=f"worker-{replica}")
    # The rest has the users that may only read.
    for replica in ("reporting", "archive"):
        run("verify", replica)
    assert run("status").count("consistent") == 2
    run("check")

    relay = place.environment("relay")["ROWCAST_PRIMARY__URL"]
    reader = place.fill("postgresql+psycopg://rowcast_reader:reader-secret@primary/shop")
    read, write = "SELECT * FROM rowcast_outbox", "UPDATE customers SET vip = vip"
    ddl = "CREATE TABLE mine (id integer)"
    assert refused(app, read, ddl) == [read, ddl]
    assert refused(relay, write, ddl) == [write, ddl]
    assert refused(reader, write, "DELETE FROM rowcast_outbox", ddl) == [write, "DELETE FROM rowcast_outbox", ddl]
    for replica in ("replica-postgresql/shop", "replica-mariadb/shop"):
        scheme = "postgresql+psycopg" if "postgresql" in replica else "mysql+pymysql"
        assert refused(place.fill(f"{scheme}://rowcast_reader:reader-secret@{replica}"), write) == [write]
