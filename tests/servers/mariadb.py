"""MariaDB."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from . import install
from .container import Container, compose_image
from .guard import Guard
from .process import Process, folder_for_unprivileged, free_port, unprivileged
from .server import DatabaseServer, ServerError

if TYPE_CHECKING:
    from pymysql.connections import Connection
    from pymysql.cursors import Cursor

# Debian's configuration, too, chooses the character set that holds every character.
_OPTIONS = ["--character-set-server=utf8mb4", "--max-connections=300"]
# Safe against a killed server, not against a machine that loses power.
_FAST = ["--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=OFF"]


class MariaDB(DatabaseServer):
    name = "mariadb"
    user = "root"

    def url(self, database: str) -> str:
        return f"mysql+pymysql://{self.user}:{self.password}@{self.host}:{self.port}/{database}?charset=utf8mb4"

    def create_database(self, name: str) -> str:
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{name}`")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        with self._connect() as connection, connection.cursor() as cursor:
            # DROP waits, for a day by default, for whoever still holds a lock on one of the tables.
            cursor.execute("SET lock_wait_timeout = 20")
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", [name])
            for (connection_id,) in cursor.fetchall():
                cursor.execute(f"KILL SOFT CONNECTION {connection_id}")
            cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")

    @classmethod
    def as_process(cls, folder: Path, guard: Guard, *, durable: bool) -> MariaDB:
        port = free_port()
        home = folder_for_unprivileged(folder / "mariadb")
        data = home / "data"
        # A server that starts removes the temporary tables that it finds: in the system's folder, another server's.
        temporary = folder_for_unprivileged(home / "temporary")
        mariadbd, install_db = install.mariadb_programs()
        done = subprocess.run(
            [install_db, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
            + ["--skip-test-db", f"--tmpdir={temporary}", *_FAST],
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **unprivileged(),
        )
        if done.returncode != 0:
            raise ServerError(f"mariadb-install-db failed:\n{done.stdout}")
        at_start = folder / "mariadb.sql"
        at_start.write_text(
            f"CREATE USER IF NOT EXISTS root@'127.0.0.1';\n"
            f"GRANT ALL ON *.* TO root@'127.0.0.1' IDENTIFIED BY '{cls.password}' WITH GRANT OPTION;\n"
        )
        at_start.chmod(0o644)
        command = [mariadbd, "--no-defaults", f"--datadir={data}", f"--init-file={at_start}", *_OPTIONS]
        command += [f"--tmpdir={temporary}", f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve"]
        command += [f"--socket={home}/socket", f"--pid-file={home}/pid", *([] if durable else _FAST)]
        return cls(Process(command, folder=home, guard=guard, identity=unprivileged()), port)

    @classmethod
    def as_container(cls, guard: Guard, *, durable: bool) -> MariaDB:
        port = free_port()
        container = Container(
            compose_image("replica-mariadb"),
            ports={port: 3306},
            guard=guard,
            environment={"MARIADB_ROOT_PASSWORD": cls.password},
            arguments=[*_OPTIONS, *([] if durable else _FAST)],
        )
        return cls(container, port)

    def _probe(self) -> None:
        self._connect().close()

    def _connect(self) -> Connection[Cursor]:
        import pymysql

        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            autocommit=True,
            connect_timeout=5,
        )
