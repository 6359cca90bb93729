"""Answer ``/healthz`` and ``/readyz`` beside ``/metrics``, for supervisors such as Kubernetes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rowcast.shared.watchdog import Watchdog

_READY_S = 15.0
"""A relay or worker is ready if its last progress is not older than this, or while its database works."""

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def _loops(dog: Watchdog) -> list[dict[str, object]]:
    return [{"loop": p.name, "age_s": round(p.age_s, 3)} for p in dog.vitals.pulses()]


def _health(dogs: Sequence[Watchdog]) -> tuple[bool, dict[str, object]]:
    """Return whether every loop goes round, and the document of the answer."""
    parts = [{**d.vitals.labels, "stuck": d.stuck_pulse() is not None, "loops": _loops(d)} for d in dogs]
    good = not any(part["stuck"] for part in parts)
    return good, {"status": "alive" if good else "stuck", "parts": parts}


def _readiness(dogs: Sequence[Watchdog]) -> tuple[bool, dict[str, object]]:
    """Return whether everything works or stands by, with all servers connected, and the document of the answer."""
    parts: list[dict[str, object]] = []
    for dog in dogs:
        age = time.time() - dog.vitals.progress_at if dog.vitals.progress_at else None
        ready = dog.stuck_pulse() is None and ((age is not None and age < _READY_S) or dog.is_waiting_for_work())
        shown = None if age is None else round(age, 3)
        parts.append({**dog.vitals.labels, "ready": ready, "last_progress_age_s": shown})
    good = all(part["ready"] for part in parts)
    return good, {"status": "ready" if good else "not ready", "parts": parts}


_PAGES = {"/healthz": _health, "/readyz": _readiness}


def with_health(app: WsgiApp, dogs: Sequence[Watchdog]) -> WsgiApp:
    """Return ``app`` with the pages of ``dogs``."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        page = _PAGES.get(environ.get("PATH_INFO", ""))
        if page is None or environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return app(environ, start_response)
        good, document = page(dogs)
        status = "200 OK" if good else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json")])
        return [orjson.dumps(document)]

    return answer


class ProgressMetrics(Collector):
    """Collect when the relays or workers of this process last made progress."""

    def __init__(self, dogs: Sequence[Watchdog]) -> None:
        self._dogs = dogs

    def collect(self) -> Iterator[Metric]:
        """Yield the metric, without the parts that have not made any progress yet."""
        gauge: GaugeMetricFamily | None = None
        for vitals in (dog.vitals for dog in self._dogs):
            if gauge is None:
                gauge = GaugeMetricFamily(
                    "rowcast_last_progress_timestamp_seconds",
                    "Unix time of the last step, or of the last look that found nothing to do",
                    labels=list(vitals.labels),
                )
            if vitals.progress_at:
                gauge.add_metric(list(vitals.labels.values()), vitals.progress_at)
        if gauge is not None:
            yield gauge
