"""Start, stop and probe a server of any kind."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Protocol


class ServerError(Exception):
    """Report that a server is not available, or does not start."""


class Runtime(Protocol):
    """Run a server as a process or as a container."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def is_running(self) -> bool: ...
    def output(self) -> str: ...
    def reap(self) -> None: ...


class Server(ABC):
    """Control a server, and start it again with the same data and address within a test."""

    name: str
    host = "127.0.0.1"

    def __init__(self, runtime: Runtime, port: int) -> None:
        self.port = port
        self._runtime = runtime

    @abstractmethod
    def _probe(self) -> None:
        """Send a request to the server. Raises an error until the server answers."""

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._runtime.start()
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Stop the server in good order: the server writes all data and informs its clients."""
        self._runtime.stop()

    def kill(self) -> None:
        """End the server like a crash."""
        self._runtime.kill()

    def pause(self) -> None:
        """Stop answering, but keep the connections, like a machine that swaps."""
        self._runtime.pause()

    def resume(self) -> None:
        self._runtime.resume()
        self._wait_until_it_answers()

    def ensure_running(self) -> None:
        """Start the server if a test has left it stopped or suspended, because the next test needs the server."""
        if self._runtime.is_running():
            self._runtime.resume()
        else:
            self.start()

    def reap(self) -> None:
        self._runtime.reap()

    def _wait_until_it_answers(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._probe()
            except Exception as error:  # Every error of a driver means that the server does not answer yet.
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
        """Return the SQLAlchemy URL of a database, with user and password."""

    @abstractmethod
    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL."""

    @abstractmethod
    def drop_database(self, name: str) -> None:
        """Drop a database, even with open connections."""
