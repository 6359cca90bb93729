"""The relay publishes the outbox to Kafka. ``docs/architecture.md`` explains the guarantees."""

from rowcast.producer.outbox.backlog import Backlog, backlog
from rowcast.producer.relay.embedded import NotifiesOfCommits, RelayThread, run_relay, running
from rowcast.producer.relay.main_loop import Relay
from rowcast.producer.relay.multi_source import run_relays
from rowcast.producer.relay.progress import OnProgress, RelayProgress
from rowcast.shared.kafka.mock_cluster import embedded_kafka

__all__ = [
    "Backlog",
    "NotifiesOfCommits",
    "OnProgress",
    "Relay",
    "RelayProgress",
    "RelayThread",
    "backlog",
    "embedded_kafka",
    "run_relay",
    "run_relays",
    "running",
]
