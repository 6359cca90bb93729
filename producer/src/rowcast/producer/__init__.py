"""The producing side, for applications: the capture, its errors and the configuration. Imports no Kafka client.

``rowcast.producer.relay`` runs the relay, ``rowcast.producer.alembic`` adds the operations for migrations. Every other
module of this package is private.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

    def __getattr__(name: str) -> Any:
        """Import a name of the capture at its first use."""
        if name not in _AT_FIRST_USE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_AT_FIRST_USE[name]), name)
        return value

    def __dir__() -> list[str]:
        """Return all names, also those that are not imported yet."""
        return sorted({*globals(), *__all__})
