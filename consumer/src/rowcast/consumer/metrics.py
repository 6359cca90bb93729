"""What Prometheus is told of a worker: how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rowcast.consumer.positions import State
from rowcast.consumer.progress import WorkerProgress

_LABELS = ("source", "replica")


class WorkerMetrics(Collector):
    """One replica's worker; ``moved`` is its ``on_progress``."""

    def __init__(self, source: str, replica: str) -> None:
        self._names = (source, replica)
        self._latest = WorkerProgress()

    def moved(self, progress: WorkerProgress) -> None:
        """Any thread may call it."""
        self._latest = progress

    def collect(self) -> Iterator[Metric]:
        latest = self._latest
        state = GaugeMetricFamily(
            "rowcast_replica_state", "1 for the state that the replica is in", labels=[*_LABELS, "state"]
        )
        for name in get_args(State):
            state.add_metric([*self._names, name], name == latest.state)
        yield state
        for name, value, what in (
            ("rowcast_worker_active", latest.active, "1 if this worker applies, 0 if it stands by"),
            ("rowcast_worker_lsn", latest.lsn, "The highest lsn that it has applied"),
            (
                "rowcast_worker_behind_seconds",
                latest.behind_ms / 1000,
                "The age of the last applied transaction when it was applied",
            ),
        ):
            gauge = GaugeMetricFamily(name, what, labels=_LABELS)
            gauge.add_metric(self._names, value)
            yield gauge
        for name, count, what in (
            ("rowcast_worker_events", latest.events, "Changes that it has applied"),
            ("rowcast_worker_transactions", latest.transactions, "Transactions that it has applied"),
        ):
            counter = CounterMetricFamily(name, what, labels=_LABELS)
            counter.add_metric(self._names, count)
            yield counter
