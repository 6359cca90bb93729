"""Figures for Prometheus, over HTTP, where a command is asked for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.shared.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

_log = logging.getLogger("rowcast.metrics")

_HOST = "127.0.0.1"

MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        envvar="ROWCAST_METRICS",
        metavar="ADDRESS",
        help=f"Figures for Prometheus at http://ADDRESS/metrics: HOST:PORT, or a port of {_HOST} (0: a free one).",
    ),
]


def require_metrics() -> None:
    """Raises MissingExtraError if Prometheus' client library is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("Prometheus' client library (prometheus-client)", "metrics") from error


@contextmanager
def served(address: str, collector: Collector) -> Iterator[None]:
    """What the collector tells, at ``http://address/metrics``, for the length of the block.

    Raises ConfigurationError if the address is none, or is taken.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    host, port = _parted(address)
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigurationError(
            f"metrics cannot be served at {address}: {error.strerror or error}. Give --metrics an address that is free."
        ) from error
    _log.info("metrics at http://%s:%d/metrics", host if ":" not in host else f"[{host}]", server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _parted(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 2**16) or (colon and not host):
        raise ConfigurationError(f"--metrics {address!r}: an address is HOST:PORT or a port, as in 127.0.0.1:9464.")
    return (host.strip("[]") or _HOST, int(port))
