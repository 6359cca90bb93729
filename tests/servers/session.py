"""Start and end the servers of one run."""

from __future__ import annotations

import shutil
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from . import install
from .broker import Broker
from .connect import Connect
from .container import docker_answers
from .guard import Guard
from .mariadb import MariaDB
from .mysql import MySQL
from .postgresql import NewestPostgreSQL, PostgreSQL
from .server import Server

SERVERS: dict[str, type[Broker] | type[PostgreSQL] | type[MariaDB] | type[MySQL] | type[Connect]] = {
    "kafka": Broker,
    "postgresql": PostgreSQL,
    "newest_postgresql": NewestPostgreSQL,
    "mariadb": MariaDB,
    "mysql": MySQL,
    "connect": Connect,
}


class Servers:
    """Start each server at the first request, several servers at a time, and end all servers together.

    `durable`: run the servers as in production. Otherwise a commit does not wait for the disk, and Kafka compiles less.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(len(SERVERS), thread_name_prefix="server")
        self._starts: dict[str, Future[Server]] = {}
        self._guard: Guard | None = None
        self._folder: Path | None = None

    def start(self, *names: str) -> None:
        """Begin to start the servers, and return immediately."""
        with self._lock:
            for name in names:
                if name not in self._starts:
                    self._starts[name] = self._pool.submit(self._start, name, *self._premises())

    def is_started(self, name: str) -> bool:
        """Return whether the server has started or is starting."""
        return name in self._starts

    def get(self, name: str) -> Server:
        """Return the server when it answers."""
        self.start(name)
        return self._starts[name].result()

    def kafka(self) -> Broker:
        server = self.get("kafka")
        assert isinstance(server, Broker)
        return server

    def postgresql(self) -> PostgreSQL:
        server = self.get("postgresql")
        assert isinstance(server, PostgreSQL)
        return server

    def mariadb(self) -> MariaDB:
        server = self.get("mariadb")
        assert isinstance(server, MariaDB)
        return server

    def connect(self) -> Connect:
        server = self.get("connect")
        assert isinstance(server, Connect)
        return server

    def remove_at_end(self, path: Path) -> None:
        assert self._guard, "nothing was started"
        self._guard.watch_path(path)

    def ensure_running(self) -> None:
        for server in self._started():
            server.ensure_running()

    def close(self) -> None:
        if self._guard is None:
            return
        self._guard.close()
        self._pool.shutdown(cancel_futures=True)
        for server in self._started():
            server.reap()
        if self._folder:  # A start that was under way may have written files after the guard removed the folder.
            shutil.rmtree(self._folder, ignore_errors=True)

    def _premises(self) -> tuple[Path, Guard]:
        if self._folder is None or self._guard is None:
            self._folder = Path(tempfile.mkdtemp(prefix="rowcast-servers-"))
            self._folder.chmod(0o711)
            self._guard = Guard()
            self._guard.watch_path(self._folder)
        return self._folder, self._guard

    def _started(self) -> list[Server]:
        done = [start for start in self._starts.values() if start.done() and not start.cancelled()]
        return [start.result() for start in done if start.exception() is None]

    def _start(self, name: str, folder: Path, guard: Guard) -> Server:
        kind = SERVERS[name]
        server: Server
        if not docker_answers():
            install.install(name)
        if issubclass(kind, Connect):
            kafka = self.kafka()
            server = (
                Connect.as_container(guard, kafka=kafka)
                if docker_answers()
                else Connect.as_process(folder, guard, kafka=kafka)
            )
        elif docker_answers():
            server = kind.as_container(guard, durable=self._durable)
        else:
            server = kind.as_process(folder, guard, durable=self._durable)
        server.start()
        return server
