"""The metrics of a worker for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import get_args

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from rowcast.consumer.events.position import ReplicaState
from rowcast.consumer.status.lag import ReplicaStatus
from rowcast.consumer.worker.progress import WorkerProgress
from rowcast.shared.errors import RowcastError

_log = logging.getLogger("rowcast.metrics")

_LABELS = ("source", "replica")


class WorkerMetrics(Collector):
    """Collect the metrics of one replica's worker. Pass ``moved`` as ``on_progress``.

    ``read_status``: read the replica's lag when Prometheus asks, as ``rowcast status`` does. None: without the lag.
    """

    def __init__(self, source: str, replica: str, read_status: Callable[[], ReplicaStatus] | None = None) -> None:
        self._names = (source, replica)
        self._read_status = read_status
        self._latest = WorkerProgress()

    def moved(self, progress: WorkerProgress) -> None:
        """Keep the latest progress. Any thread may call this."""
        self._latest = progress

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of the latest progress."""
        latest = self._latest
        state = GaugeMetricFamily("rowcast_replica_state", "1 for the replica's state", labels=[*_LABELS, "state"])
        for name in get_args(ReplicaState):
            state.add_metric([*self._names, name], name == latest.state)
        yield state
        for name, value, description in (
            ("rowcast_worker_active", latest.active, "1 if this worker applies, 0 if it stands by"),
            ("rowcast_worker_lsn", latest.lsn, "The greatest lsn that the worker has applied"),
            (
                "rowcast_worker_behind_seconds",
                latest.behind_ms / 1000,
                "The age of the last applied transaction when it was applied",
            ),
        ):
            gauge = GaugeMetricFamily(name, description, labels=_LABELS)
            gauge.add_metric(self._names, value)
            yield gauge
        for name, count, description in (
            ("rowcast_worker_events", latest.events, "Events that the worker has applied"),
            ("rowcast_worker_transactions", latest.transactions, "Transactions that the worker has applied"),
        ):
            counter = CounterMetricFamily(name, description, labels=_LABELS)
            counter.add_metric(self._names, count)
            yield counter
        if self._read_status is not None:
            yield from self._lag(self._read_status)

    def _lag(self, read_status: Callable[[], ReplicaStatus]) -> Iterator[Metric]:
        status: ReplicaStatus | None = None
        try:
            status = read_status()
        except (RowcastError, SQLAlchemyError) as error:
            _log.debug("the lag of the replica cannot be read: %s", error)
        gauges = [("rowcast_replica_up", float(status is not None), "1 if the replica and Kafka could be read")]
        if status is not None:
            gauges += [
                ("rowcast_replica_behind_seconds", status.behind_ms / 1000, "The age of the oldest commit not applied"),
                ("rowcast_replica_records", status.records, "The records that are not applied"),
                (
                    "rowcast_replica_dead_transactions",
                    status.letters.transactions,
                    "The transactions that wait in the dead letter topic, whole or in part",
                ),
                (
                    "rowcast_replica_dead_events",
                    status.letters.events,
                    "The events that wait in the dead letter topic",
                ),
            ]
        if status is not None and (last := status.verified) is not None:
            gauges += [
                ("rowcast_replica_verify_timestamp_seconds", last.at_ms / 1000, "When the last comparison ended"),
                ("rowcast_replica_verify_equal", last.verdict == "equal", "1 if the last comparison found equal rows"),
                ("rowcast_replica_verify_differing_rows", last.differing, "The differing rows of the last comparison"),
            ]
        for name, value, description in gauges:
            gauge = GaugeMetricFamily(name, description, labels=_LABELS)
            gauge.add_metric(self._names, value)
            yield gauge


def together(collectors: Sequence[WorkerMetrics]) -> Collector:
    """Return a collector of the metrics of several workers, each metric once with the samples of all."""
    return collectors[0] if len(collectors) == 1 else _Together(collectors)


class _Together(Collector):
    def __init__(self, collectors: Sequence[WorkerMetrics]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for metric in chain.from_iterable(collector.collect() for collector in self._collectors):
            known = found.setdefault(metric.name, metric)
            if known is not metric:
                known.samples += metric.samples
        yield from found.values()
