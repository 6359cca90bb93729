"""What Prometheus is told of relays: how far they are, and what waits in their outboxes when it asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rowcast.producer.relay.progress import RelayProgress, RelayState
from rowcast.producer.status import outbox
from rowcast.shared.config import Settings


class RelayMetrics(Collector):
    """The relays of this process, a source each; ``moved`` is their ``on_progress``.

    The outbox is read when Prometheus asks, over a connection of its own: what waits there is known also while the
    relay waits for Kafka, or stands by.
    """

    def __init__(self, settings: Sequence[Settings]) -> None:
        self._settings = settings
        self._latest = {each.source: RelayProgress(each.source) for each in settings}

    def moved(self, progress: RelayProgress) -> None:
        """Any thread may call it."""
        self._latest[progress.source] = progress

    def describe(self) -> list[Metric]:
        """Without it a registry would ask the databases while it is set up."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._of_relays()
        yield from self._of_outboxes()

    def _of_relays(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("rowcast_relay_state", "1 for the state that it is in", labels=["source", "state"])
        events = CounterMetricFamily("rowcast_relay_events", "Changes that it has handed to Kafka", labels=["source"])
        lsn = GaugeMetricFamily(
            "rowcast_relay_committed_lsn", "The highest lsn that Kafka has committed, as it knows", labels=["source"]
        )
        for source, latest in self._latest.items():
            for name in get_args(RelayState):
                state.add_metric([source, name], name == latest.state)
            events.add_metric([source], latest.events)
            lsn.add_metric([source], latest.lsn)
        yield from (state, events, lsn)

    def _of_outboxes(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("rowcast_primary_up", "1 if the primary's outbox could be read", labels=["source"])
        rows = GaugeMetricFamily("rowcast_outbox_rows", "Rows that wait in the outbox", labels=["source"])
        oldest = GaugeMetricFamily(
            "rowcast_outbox_oldest_seconds", "The age of the outbox's first row; 0 if it is empty", labels=["source"]
        )
        parked = GaugeMetricFamily(
            "rowcast_parked_transactions", "Transactions that could not be published", labels=["source"]
        )
        snapshot = GaugeMetricFamily(
            "rowcast_snapshot_rows",
            "Rows that a snapshot which is not done has brought",
            labels=["source", "table", "state"],
        )
        for each in self._settings:
            status = outbox(each)
            up.add_metric([each.source], status.failure is None)
            if status.failure is not None:
                continue
            found = status.data["outbox"]
            rows.add_metric([each.source], found["rows"])
            oldest.add_metric([each.source], (found["oldest_ms"] or 0) / 1000)
            parked.add_metric([each.source], found["parked"])
            for one in status.data["snapshots"]:
                snapshot.add_metric([each.source, one["table"], one["state"]], one["rows"])
        yield from (up, rows, oldest, parked, snapshot)
