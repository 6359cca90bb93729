"""What all servers have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Protocol


class ServerError(Exception):
    """A server cannot be had, or does not come up."""


class Runtime(Protocol):
    """How a server runs: as a process or as a container."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def is_running(self) -> bool: ...
    def output(self) -> str: ...
    def reap(self) -> None: ...


class Server(ABC):
    """A server that can be stopped and started again within a test: its data and its address stay the same."""

    name: str
    host = "127.0.0.1"

    def __init__(self, runtime: Runtime, port: int) -> None:
        self.port = port
        self._runtime = runtime

    @abstractmethod
    def _probe(self) -> None:
        """Talks to the server; raises as long as it does not answer."""

    def start(self) -> None:
        """Returns once it answers."""
        self._runtime.start()
        self._wait_until_it_answers()

    def stop(self) -> None:
        """In good order: everything is written, clients are told."""
        self._runtime.stop()

    def kill(self) -> None:
        """As by a crash."""
        self._runtime.kill()

    def ensure_running(self) -> None:
        """Starts it if a test left it stopped: the next test must not pay for that."""
        if not self._runtime.is_running():
            self.start()

    def reap(self) -> None:
        self._runtime.reap()

    def _wait_until_it_answers(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._probe()
            except Exception as error:  # each driver has its own; all mean "not yet"
                if not self._runtime.is_running():
                    raise ServerError(f"{self.name} ended while it was starting:\n{self._tail()}") from error
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"{self.name} did not answer on {self.host}:{self.port} within {seconds:.0f} s "
                        f"({error}):\n{self._tail()}"
                    ) from error
                time.sleep(0.05)
            else:
                return

    def _tail(self) -> str:
        return "\n".join(self._runtime.output().splitlines()[-40:])


class DatabaseServer(Server):
    user: str
    password = "test-secret"

    @abstractmethod
    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database, with user and password."""

    @abstractmethod
    def create_database(self, name: str) -> str:
        """Makes an empty database and returns its URL."""

    @abstractmethod
    def drop_database(self, name: str) -> None:
        """Drops it, whoever is still connected."""
