"""Run MariaDB."""

from __future__ import annotations

from pathlib import Path

from . import install
from .container import Container, compose_image
from .guard import Guard
from .mysql_protocol import MySQLProtocolServer
from .process import Process, folder_for_unprivileged, free_port, unprivileged
from .run import run

# The character set is utf8mb4 as in Debian's configuration, because it can hold every character.
_OPTIONS = ["--character-set-server=utf8mb4", "--max-connections=300"]
# The data survive a killed server, but not a loss of power.
_FAST = [
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-doublewrite=OFF",
    "--innodb-flush-method=nosync",
    "--debug-no-sync",
]


class MariaDB(MySQLProtocolServer):
    name = "mariadb"
    _kill = "KILL SOFT CONNECTION"

    @classmethod
    def as_process(cls, folder: Path, guard: Guard, *, durable: bool) -> MariaDB:
        port = free_port()
        home = folder_for_unprivileged(folder / "mariadb")
        data = home / "data"
        # A starting server removes all temporary tables in its folder. The system's folder may contain tables of a
        # different server.
        temporary = folder_for_unprivileged(home / "temporary")
        mariadbd, install_db = install.mariadb_programs()
        run(
            [install_db, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
            + ["--skip-test-db", f"--tmpdir={temporary}", *_FAST],
            home,
        )
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
