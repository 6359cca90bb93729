"""The relay: publishes the outbox to Kafka. ``docs/architecture.md`` says what it promises and why that holds."""

from rowcast.producer.relay.backlogs import Backlog, backlog
from rowcast.producer.relay.embedding import NotifiesOfCommits, RelayThread, run_relay, running
from rowcast.producer.relay.process import Relay
from rowcast.producer.relay.progress import OnProgress, RelayProgress
from rowcast.producer.relay.several import run_relays

__all__ = [
    "Backlog",
    "NotifiesOfCommits",
    "OnProgress",
    "Relay",
    "RelayProgress",
    "RelayThread",
    "backlog",
    "run_relay",
    "run_relays",
    "running",
]
