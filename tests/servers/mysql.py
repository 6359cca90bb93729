"""Run MySQL."""

from __future__ import annotations

from pathlib import Path

from . import sid
from .container import Container, compose_image
from .guard import Guard
from .mysql_protocol import MySQLProtocolServer
from .process import Process, folder_for_unprivileged, free_port, give_to_unprivileged, unprivileged

_OPTIONS = [
    "--max-connections=300",
    "--mysqlx=OFF",
    "--performance-schema=OFF",
    # Managed servers often have these settings, and the tests must find statements refused there.
    "--sql-require-primary-key=ON",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
]
# The data survive a killed server, but not a loss of power.
_FAST = [
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
    "--innodb-doublewrite=OFF",
    "--innodb-flush-method=nosync",
]


class MySQL(MySQLProtocolServer):
    name = "mysql"

    @classmethod
    def as_process(cls, folder: Path, guard: Guard, *, durable: bool) -> MySQL:
        port = free_port()
        home = folder_for_unprivileged(folder / "mysql")
        programs = sid.programs(folder / "mysql-programs")
        programs.copy_mysql_data(home / "data")
        give_to_unprivileged(home / "data")
        at_start = folder / "mysql.sql"
        at_start.write_text(
            f"CREATE USER IF NOT EXISTS root@'127.0.0.1' IDENTIFIED BY '{cls.password}';\n"
            f"GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
        )
        at_start.chmod(0o644)
        command = [*programs.mysqld(), f"--datadir={home}/data", f"--init-file={at_start}", *sid.MYSQL_SIZES, *_OPTIONS]
        command += [f"--tmpdir={home}", f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve"]
        command += [f"--socket={home}/socket", f"--pid-file={home}/pid", *([] if durable else _FAST)]
        return cls(Process(command, folder=home, guard=guard, identity=unprivileged()), port)

    @classmethod
    def as_container(cls, guard: Guard, *, durable: bool) -> MySQL:
        port = free_port()
        container = Container(
            compose_image("mysql"),
            ports={port: 3306},
            guard=guard,
            environment={"MYSQL_ROOT_PASSWORD": cls.password},
            arguments=[*_OPTIONS, *([] if durable else _FAST)],
        )
        return cls(container, port)
