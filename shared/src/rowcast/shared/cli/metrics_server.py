"""Serve metrics for Prometheus over HTTP, for commands with ``--metrics``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.shared.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from rowcast.shared.watchdog import Watchdog

_log = logging.getLogger("rowcast.metrics")

_HOST = "127.0.0.1"

MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        envvar="ROWCAST_METRICS",
        metavar="ADDRESS",
        help=f"Serve metrics for Prometheus at http://ADDRESS/metrics, and /healthz and /readyz beside it: HOST:PORT "
        f"or a port of {_HOST} (0: any).",
    ),
]


def require_metrics() -> None:
    """Raise MissingExtraError if Prometheus' client library is not installed."""
    try:
        import prometheus_client  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("Prometheus' client library (prometheus-client)", "metrics") from error


@contextmanager
def serve_metrics(address: str, collector: Collector, dogs: Sequence[Watchdog] = ()) -> Iterator[None]:
    """Serve the collector's metrics at ``http://address/metrics`` until the block ends.

    The state of the watchdogs' relays or workers is at ``/healthz`` and ``/readyz``.

    Raises ConfigurationError if the address is not valid or already in use.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    from rowcast.shared.cli.health import ProgressMetrics, with_health

    host, port = _split_address(address)
    registry = CollectorRegistry()
    registry.register(collector)
    registry.register(ProgressMetrics(dogs))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigurationError(
            f"cannot serve metrics at {address}: {error.strerror or error}. Give --metrics a free address."
        ) from error
    app = server.get_app()
    assert app is not None
    server.set_app(with_health(app, dogs))
    _log.info("metrics at http://%s:%d/metrics", host if ":" not in host else f"[{host}]", server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _split_address(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 2**16) or (colon and not host):
        raise ConfigurationError(
            f"--metrics {address!r} is not an address. Give HOST:PORT or a port, for example 127.0.0.1:9464."
        )
    return (host.strip("[]") or _HOST, int(port))
