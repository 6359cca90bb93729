"""A TCP proxy whose connections can fall silent: they stay open, and carry nothing any more."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class SilentProxy:
    """Forward connections to ``port`` of this machine. ``port``: where the proxy listens."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._silenced: set[socket.socket] = set()
        self._open: list[socket.socket] = []
        self._refuses = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """Let the open connections carry nothing from now on. New connections work."""
        self._silenced = set(self._open)

    def silence_all(self) -> None:
        """Let the open connections and all later ones carry nothing."""
        self._refuses = True
        self.silence()

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
            self._open += (client, server)
            if self._refuses:
                self._silenced |= {client, server}
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if source not in self._silenced:
                    target.sendall(data)
            if source in self._silenced:
                return
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def silent_proxy(target: int) -> Iterator[SilentProxy]:
    """Run a proxy until the block ends."""
    proxy = SilentProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
