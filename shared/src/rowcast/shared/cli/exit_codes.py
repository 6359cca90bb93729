"""Turn known errors into a message and an exit code for the command line, in place of a traceback."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exc

from rowcast.shared.database.driver_errors import is_missing_right
from rowcast.shared.database.driver_messages import first_line
from rowcast.shared.errors import RowcastError
from rowcast.shared.kafka.client_errors import reason_of

WRONG_USE = 2
UNREACHABLE = 3
# EX_SOFTWARE of sysexits.h. Exit code 1 would not do, because it means "they differ" for verify.
BUG = 70

_MISSING_TABLE = re.compile(r"no such table|relation .* does not exist|Table '.*' doesn't exist", re.IGNORECASE)
_MISSING_COLUMN = re.compile(r"no such column|column .* does not exist|Unknown column", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Failure:
    """Hold the message for the user and the exit code."""

    message: str
    exit_code: int


def to_failure(error: BaseException) -> Failure | None:
    """Return the failure of ``error``, or None if ``error`` is a bug and needs a traceback."""
    if isinstance(error, RowcastError):
        return Failure(str(error), error.exit_code)
    if isinstance(error, exc.DBAPIError):
        return _database(error)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(f"cannot use {error.filename}: {error.strerror}. Name another file or folder.", WRONG_USE)
    if type(error).__name__ == "KafkaException" and type(error).__module__.startswith(("confluent_kafka", "cimpl")):
        return _kafka(error)
    return None


def _database(error: exc.DBAPIError) -> Failure | None:
    reason = first_line(error)
    if _MISSING_TABLE.search(reason) or _MISSING_COLUMN.search(reason):
        return Failure(
            f"a database lacks a table or column that rowcast needs: {reason}. `rowcast check` says how to add it.",
            WRONG_USE,
        )
    if is_missing_right(error):
        return Failure(
            f"a database refuses a statement: {reason}. `rowcast check` names all rights that are missing.", WRONG_USE
        )
    # An error without a statement happened while connecting. The dialect marks lost connections.
    if error.connection_invalidated or (isinstance(error, exc.OperationalError) and error.statement is None):
        return Failure(
            f"a database does not answer: {reason}. Is it running, and is its url right? `rowcast check` tries each.",
            UNREACHABLE,
        )
    return None


def _kafka(error: BaseException) -> Failure:
    """Return the failure of a Kafka error. All of them concern the cluster, the network or the rights."""
    reason = reason_of(error)
    detail: Any = error.args[0] if error.args else None
    name = str(detail.name()) if hasattr(detail, "name") else ""
    if "AUTHORIZATION" in name or "AUTHENTICATION" in name:
        return Failure(f"Kafka refuses this client: {reason}. Check the security settings in [kafka].", WRONG_USE)
    return Failure(f"Kafka: {reason}. `rowcast check` shows what it can reach.", UNREACHABLE)
