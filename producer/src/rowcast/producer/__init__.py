"""The producing side, for applications: the capture, its errors and the configuration. Imports no Kafka client.

``rowcast.producer.relay`` runs the relay, ``rowcast.producer.alembic`` adds the operations for migrations. Every other
module of this package is private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowcast.shared.config import Settings, TableSettings, load
from rowcast.shared.errors import (
    CaptureError,
    ConfigurationError,
    DataError,
    FencedError,
    MissingExtraError,
    RetriableError,
    RowcastError,
    UnreachableError,
)
from rowcast.shared.findings import Finding, Verdict
from rowcast.shared.late_names import late_names

if TYPE_CHECKING:
    from rowcast.producer.batching.batches import BatchProgress, async_batches, batches
    from rowcast.producer.capture.hook import Capture
    from rowcast.producer.capture.notes.strictness import CaptureWarning

__all__ = [
    "BatchProgress",
    "Capture",
    "CaptureError",
    "CaptureWarning",
    "ConfigurationError",
    "DataError",
    "FencedError",
    "Finding",
    "MissingExtraError",
    "RetriableError",
    "RowcastError",
    "Settings",
    "TableSettings",
    "UnreachableError",
    "Verdict",
    "async_batches",
    "batches",
    "load",
]

# Relay and commands do not capture, and should start without SQLAlchemy's ORM.
_AT_FIRST_USE = {
    "BatchProgress": "rowcast.producer.batching.batches",
    "async_batches": "rowcast.producer.batching.batches",
    "batches": "rowcast.producer.batching.batches",
    "Capture": "rowcast.producer.capture.hook",
    "CaptureWarning": "rowcast.producer.capture.notes.strictness",
}

# Type checkers would take every name for a name of this module.
if not TYPE_CHECKING:
    __getattr__, __dir__ = late_names(__name__, _AT_FIRST_USE)
