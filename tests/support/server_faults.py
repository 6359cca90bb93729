"""Let a database server have faults that pass, for the role of a worker or a relay."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from support.worker_runs import Database

# Per engine, codes that a server sends for faults that pass, and that FAULTS do not have. A trigger raises them.
CODES = {
    # Disk full, out of memory, deadlock, error of a file, internal error.
    "postgresql": ("53100", "53200", "40P01", "58030", "XX000"),
    # Disk full, table full, error of a file, read-only mode, too many connections, deadlock, shutdown, Galera's node.
    "mariadb": (1021, 1114, 1026, 1836, 1040, 1203, 1213, 1053, 1047),
    "mysql": (1021, 1114, 1026, 1290, 1836, 1040, 1203, 1213, 3024, 1053, 3101),
}


@contextmanager
def raising_trigger(admin: Database, table: str, event: str, code: str | int) -> Iterator[None]:
    """Let every statement of ``event`` (INSERT or UPDATE) on a table fail with a code of the server."""
    if admin.engine.dialect.name == "postgresql":
        body = f"BEGIN RAISE 'fault' USING ERRCODE = '{code}'; END"
        begin = [
            f"CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $${body}$$",
            f"CREATE TRIGGER fault BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION fault()",
        ]
        end = [f"DROP TRIGGER fault ON {table}", "DROP FUNCTION fault()"]
    else:
        signal = f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'fault'"
        begin = [f"CREATE TRIGGER fault BEFORE {event} ON {table} FOR EACH ROW {signal}"]
        end = ["DROP TRIGGER fault"]
    admin.execute(*begin)
    try:
        yield
    finally:
        admin.execute(*end)


REFUSED_LOGIN = "Correct the user, the password or the name of the database in its url. Trying again"
"""A warning of a refused login names the database and the next step."""


class Role:
    """Hold a role on a server, and the administrator's connection.

    ``table``: a table that the role's process writes, for faults of locks.
    """

    def __init__(self, engine: str, url: str, table: str) -> None:
        self.is_postgresql = engine == "postgresql"
        self.admin = Database(url)
        self.name = f"role_{sa.make_url(url).database}"
        self.url = sa.make_url(url).set(username=self.name, password="x").render_as_string(False)
        self.table = table
        self._user = self.name if self.is_postgresql else f"{self.name}@'127.0.0.1'"

    def create(self) -> None:
        if self.is_postgresql:
            schema = f"GRANT ALL ON SCHEMA public TO {self.name}"
            tables = f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {self.name}"
            sequences = f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {self.name}"
            self.admin.execute(f"CREATE ROLE {self.name} LOGIN PASSWORD 'x'", schema, tables, sequences)
            return
        rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, LOCK TABLES"
        database = sa.make_url(self.url).database
        grant = f"GRANT {rights} ON {database}.* TO {self._user}"
        self.admin.execute(f"CREATE USER {self._user} IDENTIFIED BY 'x'", grant)

    def drop(self) -> None:
        self.end_sessions()
        if self.is_postgresql:
            self.admin.execute(f"DROP OWNED BY {self.name}", f"DROP ROLE {self.name}")
        else:
            self.admin.execute(f"DROP USER {self._user}")

    def end_sessions(self) -> None:
        if self.is_postgresql:
            self.admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.name}'")
            return
        query = f"SELECT id FROM information_schema.processlist WHERE user = '{self.name}'"
        with self.admin.engine.connect() as connection:
            for (id_,) in connection.exec_driver_sql(query).all():
                # The session may end by itself meanwhile.
                connection.exec_driver_sql(f"KILL {id_}") if self._has_session(id_) else None

    def _has_session(self, id_: int) -> bool:
        with self.admin.engine.connect() as connection:
            query = f"SELECT 1 FROM information_schema.processlist WHERE id = {id_}"
            return connection.exec_driver_sql(query).first() is not None

    @contextmanager
    def fault(self, name: str) -> Iterator[str]:
        """Let the server have the fault. Yield the words of the warning."""
        begin, end, words = (self._postgresql() if self.is_postgresql else self._mysql())[name]
        self.admin.execute(begin)
        try:
            self.end_sessions()
            if name in ("statement time", "lock"):
                with self._locked_table():
                    yield words
            else:
                yield words
        finally:
            self.admin.execute(end)

    def _postgresql(self) -> dict[str, tuple[str, str, str]]:
        """Return by name: the statement that begins a fault, the statement that ends it, and words of the warning."""
        change, reset = f"ALTER ROLE {self.name}", f"ALTER ROLE {self.name} RESET ALL"
        return {
            "read-only": (f"{change} SET default_transaction_read_only = on", reset, "read-only"),
            "connections": (f"{change} CONNECTION LIMIT 0", f"{change} CONNECTION LIMIT -1", "too many connections"),
            "login": (f"{change} NOLOGIN", f"{change} LOGIN", REFUSED_LOGIN),
            "statement time": (f"{change} SET statement_timeout = '200ms'", reset, "due to statement timeout"),
            "lock": (f"{change} SET lock_timeout = '100ms'", reset, "due to lock timeout"),
        }

    def _mysql(self) -> dict[str, tuple[str, str, str]]:
        change, user = f"ALTER USER {self._user}", f"GRANT USAGE ON *.* TO {self._user}"
        return {
            "read-only": ("SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0", "read-only"),
            "connections": (f"{user} WITH MAX_CONNECTIONS_PER_HOUR 1", f"{user} WITH MAX_CONNECTIONS_PER_HOUR 0",
                            "has exceeded the"),
            "login": (f"{change} ACCOUNT LOCK", f"{change} ACCOUNT UNLOCK", REFUSED_LOGIN),
            "statement time": (f"{user} WITH MAX_STATEMENT_TIME 0.2", f"{user} WITH MAX_STATEMENT_TIME 0",
                               "max_statement_time exceeded"),
            "lock": ("SET GLOBAL lock_wait_timeout = 1", "SET GLOBAL lock_wait_timeout = 86400", "Lock wait timeout"),
        }  # fmt: skip

    @contextmanager
    def _locked_table(self) -> Iterator[None]:
        """Hold a lock that lets others read the table."""
        with self.admin.engine.connect() as connection:
            lock = f"LOCK TABLE {self.table} IN SHARE MODE" if self.is_postgresql else f"LOCK TABLES {self.table} READ"
            connection.exec_driver_sql(lock)
            yield
            if not self.is_postgresql:
                connection.exec_driver_sql("UNLOCK TABLES")


@contextmanager
def new_role(engine: str, url: str, table: str) -> Iterator[Role]:
    """Create a role, and drop it at the end."""
    role = Role(engine, url, table)
    role.create()
    try:
        yield role
    finally:
        role.drop()


FAULTS = [
    *(("postgresql", fault) for fault in ("read-only", "connections", "login", "statement time", "lock")),
    *(("mariadb", fault) for fault in ("read-only", "connections", "login", "statement time", "lock")),
]


@contextmanager
def small_disk(folder: Path, kilobytes: int = 4096) -> Iterator[Path]:
    """Mount a small file system that every user may write, which needs root."""
    folder.mkdir()
    # The servers run as other users, and must reach the folder.
    for parent in (folder, *folder.parents):
        if not re.search("..x$", oct(parent.stat().st_mode)[-1]) and parent.owner() == "root":
            parent.chmod(parent.stat().st_mode | 0o011)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=777", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill the rest of a disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    try:
        yield
    finally:
        filler.unlink()
