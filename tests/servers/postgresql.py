"""Run PostgreSQL."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from . import install, sid
from .container import Container, compose_image
from .guard import Guard
from .process import Process, folder_for_unprivileged, free_port, unprivileged
from .run import run
from .server import DatabaseServer

# Two-phase commit is off by default. A parametrised suite sometimes holds more than the default of 100 connections.
# Debezium's source reads the logical log.
_SETTINGS = {"max_connections": "300", "max_prepared_transactions": "20", "wal_level": "logical"}
# The data survive a killed server, but not a loss of power. synchronous_commit stays on, because a killed server would
# otherwise forget confirmed transactions.
_FAST = {"fsync": "off", "full_page_writes": "off"}


class PostgreSQL(DatabaseServer):
    name = "postgresql"
    user = "rowcast"

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        self._execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        for gid in self._prepared_transactions(name):
            self._execute(f"ROLLBACK PREPARED '{gid}'", database=name)
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @classmethod
    def as_process(
        cls, folder: Path, guard: Guard, *, durable: bool, environment: Mapping[str, str] | None = None
    ) -> PostgreSQL:
        home = folder_for_unprivileged(folder / cls.name)
        data = home / "data"
        password_file = folder / f"{cls.name}.password"
        password_file.write_text(cls.password)
        password_file.chmod(0o644)
        binaries = cls._binaries(folder)
        initdb = [str(binaries / "initdb"), "-D", str(data), "-U", cls.user, f"--pwfile={password_file}"]
        initdb += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        run(initdb, home)
        return cls._on(data, binaries, guard, _options(durable), environment)

    def standby(self, folder: Path, guard: Guard, environment: Mapping[str, str] | None = None) -> PostgreSQL:
        """Return a standby that follows this running server by streaming, with a copy of its data in ``folder``."""
        home = folder_for_unprivileged(folder / self.name)
        data = home / "data"
        binaries = self._binaries(folder)
        copy = [str(binaries / "pg_basebackup"), "-D", str(data), "--write-recovery-conf", "--checkpoint=fast"]
        run([*copy, "--no-sync", f"--dbname={self._conninfo('postgres')}"], home)
        return self._on(data, binaries, guard, _options(durable=False), environment)

    def stop_following(self) -> None:
        """Let a standby receive nothing more."""
        self._execute("ALTER SYSTEM SET primary_conninfo = ''")
        self._execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make a standby accept writes. Records that it has not received are lost."""
        self._execute("SELECT pg_promote()")

    @classmethod
    def _on(
        cls,
        data: Path,
        binaries: Path,
        guard: Guard,
        options: list[str],
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Return a server on the data. ``environment``: further variables of its process."""
        port = free_port()
        command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        process = Process(
            command,
            folder=data.parent,
            guard=guard,
            identity=unprivileged(),
            environment={**os.environ, **environment} if environment else None,
            stop_signal=signal.SIGINT,
            # SIGKILL would leave child processes and shared memory behind. An immediate shutdown is PostgreSQL's
            # equivalent of a crash.
            crash_signal=signal.SIGQUIT,
        )
        return cls(process, port)

    @classmethod
    def as_container(cls, guard: Guard, *, durable: bool) -> PostgreSQL:
        port = free_port()
        environment = {
            "POSTGRES_USER": cls.user,
            "POSTGRES_PASSWORD": cls.password,
            "POSTGRES_DB": "postgres",
            "POSTGRES_INITDB_ARGS": "--encoding=UTF8 --locale=C",
        }
        container = Container(
            compose_image(install.COMPOSE_SERVICES[cls.name]),
            ports={port: 5432},
            guard=guard,
            environment=environment,
            arguments=["postgres", *_options(durable)],
        )
        return cls(container, port)

    @classmethod
    def _binaries(cls, folder: Path) -> Path:
        return install.postgresql_binaries()

    def _probe(self) -> None:
        self._execute("SELECT 1")

    def _execute(self, statement: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(self._conninfo(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _prepared_transactions(self, database: str) -> list[str]:
        import psycopg

        query = "SELECT gid FROM pg_prepared_xacts WHERE database = %s"
        with psycopg.connect(self._conninfo("postgres")) as connection:
            return [gid for (gid,) in connection.execute(query, [database])]

    def _conninfo(self, database: str) -> str:
        return self.url(database).replace("+psycopg", "") + "?connect_timeout=5"


class NewestPostgreSQL(PostgreSQL):
    name = "newest_postgresql"

    @classmethod
    def _binaries(cls, folder: Path) -> Path:
        return sid.programs(folder / f"{cls.name}-programs").postgresql_binaries()


def _options(durable: bool) -> list[str]:
    settings = _SETTINGS if durable else _SETTINGS | _FAST
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
