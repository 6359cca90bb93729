"""The consuming side: run a worker, verify a replica, read the lag of a replica, read from fresh replicas.

Every module below this package is private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowcast.shared.config import ReplicaSettings, Settings, load
from rowcast.shared.errors import (
    ConfigurationError,
    DataError,
    FencedError,
    MissingExtraError,
    RetriableError,
    RowcastError,
    UnreachableError,
)
from rowcast.shared.late_names import late_names

if TYPE_CHECKING:
    from rowcast.consumer.reads.read_replica import ReadReplica
    from rowcast.consumer.reads.routing_session import RoutingSession
    from rowcast.consumer.running.run_worker import run_worker
    from rowcast.consumer.sinks.run import SinkProgress, run_sink
    from rowcast.consumer.sinks.sink import Changes, RowChange, Sink, SinkBatch, SinkTransaction
    from rowcast.consumer.sinks.sqlalchemy_sink import SqlAlchemySink
    from rowcast.consumer.status.lag import ReplicaStatus, TopicLag, replica_status
    from rowcast.consumer.verification.comparison import verify
    from rowcast.consumer.verification.results import VerifyResult
    from rowcast.consumer.worker.progress import WorkerProgress

__all__ = [
    "Changes",
    "ConfigurationError",
    "DataError",
    "FencedError",
    "MissingExtraError",
    "ReadReplica",
    "ReplicaSettings",
    "ReplicaStatus",
    "RetriableError",
    "RoutingSession",
    "RowChange",
    "RowcastError",
    "Settings",
    "Sink",
    "SinkBatch",
    "SinkProgress",
    "SinkTransaction",
    "SqlAlchemySink",
    "TopicLag",
    "UnreachableError",
    "VerifyResult",
    "WorkerProgress",
    "load",
    "replica_status",
    "run_sink",
    "run_worker",
    "verify",
]

# An application that reads from replicas runs no worker.
_AT_FIRST_USE = {
    "ReadReplica": "rowcast.consumer.reads.read_replica",
    "RoutingSession": "rowcast.consumer.reads.routing_session",
    "SinkProgress": "rowcast.consumer.sinks.run",
    "run_sink": "rowcast.consumer.sinks.run",
    **dict.fromkeys(("Changes", "RowChange", "Sink", "SinkBatch", "SinkTransaction"), "rowcast.consumer.sinks.sink"),
    "SqlAlchemySink": "rowcast.consumer.sinks.sqlalchemy_sink",
    "ReplicaStatus": "rowcast.consumer.status.lag",
    "TopicLag": "rowcast.consumer.status.lag",
    "replica_status": "rowcast.consumer.status.lag",
    "verify": "rowcast.consumer.verification.comparison",
    "VerifyResult": "rowcast.consumer.verification.results",
    "run_worker": "rowcast.consumer.running.run_worker",
    "WorkerProgress": "rowcast.consumer.worker.progress",
}

# Type checkers would take every name for a name of this module.
if not TYPE_CHECKING:
    __getattr__, __dir__ = late_names(__name__, _AT_FIRST_USE)
