"""Export the progress of relays and the backlogs of their outboxes to Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import get_args

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rowcast.producer.outbox.status import outbox
from rowcast.producer.relay.progress import RelayProgress, RelayState
from rowcast.shared.config.settings import Settings


class RelayMetrics(Collector):
    """Collect the metrics of the relays in this process, one for each source. ``moved`` is their ``on_progress``.

    The outbox is read when Prometheus scrapes, on a separate connection. The backlog is also known while the relay
    waits for Kafka or stands by.
    """

    def __init__(self, settings: Sequence[Settings]) -> None:
        self._settings = settings
        self._latest = {each.source: RelayProgress(each.source) for each in settings}

    def moved(self, progress: RelayProgress) -> None:
        """Store the progress of a relay. Any thread may call it."""
        self._latest[progress.source] = progress

    def describe(self) -> list[Metric]:
        """Return no metrics, because otherwise the registration of the collector would read the databases."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all relays, and read all outboxes."""
        yield from self._relay_metrics()
        yield from self._outbox_metrics()

    def _relay_metrics(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "rowcast_relay_state", "1 for the current state of the relay", labels=["source", "state"]
        )
        events = CounterMetricFamily(
            "rowcast_relay_events", "Row changes that the relay has sent to Kafka", labels=["source"]
        )
        lsn = GaugeMetricFamily(
            "rowcast_relay_committed_lsn",
            "The highest lsn that Kafka has committed, as far as the relay knows",
            labels=["source"],
        )
        for source, latest in self._latest.items():
            for name in get_args(RelayState):
                state.add_metric([source, name], name == latest.state)
            events.add_metric([source], latest.events)
            lsn.add_metric([source], latest.lsn)
        yield from (state, events, lsn)

    def _outbox_metrics(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("rowcast_primary_up", "1 if the primary's outbox could be read", labels=["source"])
        rows = GaugeMetricFamily("rowcast_outbox_rows", "Rows in the outbox", labels=["source"])
        oldest = GaugeMetricFamily(
            "rowcast_outbox_oldest_seconds",
            "The age of the first row in the outbox, 0 if the outbox is empty",
            labels=["source"],
        )
        alarm = GaugeMetricFamily(
            "rowcast_outbox_alarm", "1 if the outbox exceeds alarm_rows or alarm_s", labels=["source"]
        )
        parked = GaugeMetricFamily(
            "rowcast_parked_transactions", "Transactions that could not be published", labels=["source"]
        )
        snapshot = GaugeMetricFamily(
            "rowcast_snapshot_rows",
            "Rows that an unfinished snapshot has read",
            labels=["source", "table", "state"],
        )
        for each in self._settings:
            status = outbox(each, math.inf)
            up.add_metric([each.source], status.failure is None)
            if status.failure is not None:
                continue
            found = status.data["outbox"]
            rows.add_metric([each.source], found.rows)
            oldest.add_metric([each.source], (found.oldest_ms or 0) / 1000)
            alarm.add_metric([each.source], found.alarm is not None)
            parked.add_metric([each.source], found.parked)
            for request in status.data["snapshots"]:
                snapshot.add_metric([each.source, request.table, request.state], request.rows)
        yield from (up, rows, oldest, alarm, parked, snapshot)
