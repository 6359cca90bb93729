"""The consuming side: run a worker, verify a replica, read the lag of a replica.

Every module below this package is private.
"""

from rowcast.consumer.status.lag import ReplicaStatus, TopicLag, replica_status
from rowcast.consumer.verification.comparison import verify
from rowcast.consumer.verification.results import VerifyResult
from rowcast.consumer.worker.main_loop import run_worker
from rowcast.consumer.worker.progress import WorkerProgress
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

__all__ = [
    "ConfigurationError",
    "DataError",
    "FencedError",
    "MissingExtraError",
    "ReplicaSettings",
    "ReplicaStatus",
    "RetriableError",
    "RowcastError",
    "Settings",
    "TopicLag",
    "UnreachableError",
    "VerifyResult",
    "WorkerProgress",
    "load",
    "replica_status",
    "run_worker",
    "verify",
]
