"""A TCP proxy whose connections can fall silent: they stay open, and carry nothing any more."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


class SilentProxy:
    """Forward connections to ``target``, a port of this machine.

    ``port``: where the proxy listens. ``was_asked``: set when a silent connection has swallowed a request.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.was_asked = threading.Event()
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._refuses = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """Let the open connections carry nothing from now on. New connections work."""
        for link in self._open():
            link.is_silent = True

    def silence_all(self) -> None:
        """Let the open connections and all later ones carry nothing."""
        self._refuses = True
        self.silence()

    def carry_again(self) -> None:
        """Let new connections work after ``silence_all``. Silent connections stay silent."""
        self._refuses = False

    def end_silent(self) -> None:
        """End the silent connections, as TCP's keepalive does after a time."""
        for link in self._open():
            if link.is_silent:
                link.end()

    def cut(self) -> None:
        """End the open connections. New connections work."""
        for link in self._open():
            link.end()

    def retarget(self, target: int) -> None:
        """Forward new connections to another port, and end the open ones, as a failover does."""
        self._target = target
        self.cut()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _open(self) -> list[_Link]:
        with self._lock:
            return list(self._links)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            link = _Link(client, server, self._refuses, self.was_asked)
            with self._lock:
                self._links.add(link)
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(link, source, target), daemon=True).start()

    def _pump(self, link: _Link, source: socket.socket, target: socket.socket) -> None:
        try:
            link.pump(source, target)
        finally:
            with self._lock:
                link.running -= 1
                if link.running == 0:
                    self._links.discard(link)
                    link.close()


@dataclass(eq=False)
class _Link:
    """Carry the data of one connection in both directions."""

    client: socket.socket
    server: socket.socket
    is_silent: bool
    was_asked: threading.Event
    running: int = 2
    """The number of directions that have not ended. The proxy's lock guards it."""

    def pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if not self.is_silent:
                    target.sendall(data)
                elif source is self.client:
                    self.was_asked.set()
            if not self.is_silent:
                target.shutdown(socket.SHUT_WR)
            return
        self.end()

    def end(self) -> None:
        """Wake the threads of both directions. The last one closes the sockets."""
        for each in (self.client, self.server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.client.close()
        self.server.close()


@contextmanager
def silent_proxy(target: int) -> Iterator[SilentProxy]:
    """Run a proxy until the block ends."""
    proxy = SilentProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
