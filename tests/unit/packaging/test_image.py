"""Run the health check of the image, without a container engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from servers.paths import REPOSITORY

(_CHECK,) = (
    json.loads(line.partition(" CMD ")[2])
    for line in (REPOSITORY / "Dockerfile").read_text("utf-8").splitlines()
    if line.startswith("HEALTHCHECK")
)


@contextmanager
def server(status: int, paths: list[str]) -> Iterator[int]:
    """Answer every request with the status, and yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield http.server_port
        http.shutdown()
        thread.join()


def is_healthy(**environment: str) -> bool:
    assert _CHECK[0] == "python"
    return not subprocess.run(
        [sys.executable, *_CHECK[1:]], env=os.environ | environment, capture_output=True
    ).returncode


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_image_asks_the_process_whether_it_is_stuck(status: int, healthy: bool) -> None:
    paths: list[str] = []
    with server(status, paths) as port:
        assert is_healthy(ROWCAST_METRICS=f"127.0.0.1:{port}") is healthy
        assert is_healthy(ROWCAST_METRICS=str(port)) is healthy
    assert paths == ["/healthz"] * 2
    assert not is_healthy(ROWCAST_METRICS=f"127.0.0.1:{port}"), "nobody listens any more"


def test_a_process_without_an_address_counts_as_healthy() -> None:
    assert is_healthy(ROWCAST_METRICS="")
