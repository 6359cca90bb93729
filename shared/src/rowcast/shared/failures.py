"""What a known failure means to the user of the command line: one message and an exit code, instead of a traceback."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import exc

from rowcast.shared.errors import RowcastError

WRONG_USE = 2
UNREACHABLE = 3
# sysexits.h's EX_SOFTWARE: scripts must be able to tell a bug from verify's "they differ" (1).
BUG = 70

_MISSING_TABLE = re.compile(r"no such table|relation .* does not exist|Table '.*' doesn't exist", re.IGNORECASE)
_MISSING_COLUMN = re.compile(r"no such column|column .* does not exist|Unknown column", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Failure:
    """What to tell the user, and what to exit with."""

    message: str
    exit_code: int


def known(error: BaseException) -> Failure | None:
    """The failure that ``error`` is, or None if it is a bug, which deserves its traceback."""
    if isinstance(error, RowcastError):
        return Failure(str(error), error.exit_code)
    if isinstance(error, exc.DBAPIError):
        return _database(error)
    if type(error).__name__ == "KafkaException" and type(error).__module__.startswith(("confluent_kafka", "cimpl")):
        return _kafka(error)
    return None


def _database(error: exc.DBAPIError) -> Failure | None:
    reason = _first_line(error.orig or error)
    if _MISSING_TABLE.search(reason) or _MISSING_COLUMN.search(reason):
        return Failure(
            f"a database lacks something that rowcast needs: {reason}. `rowcast check` says how to mend it.",
            WRONG_USE,
        )
    # Without a statement it failed while connecting; a lost connection is marked by the dialect.
    if error.connection_invalidated or (isinstance(error, exc.OperationalError) and error.statement is None):
        return Failure(
            f"a database does not answer: {reason}. Is it running, and is its url right? `rowcast check` tries each.",
            UNREACHABLE,
        )
    return None


def _kafka(error: BaseException) -> Failure:
    """Every error that librdkafka hands out is about the cluster, the network or the rights there."""
    detail = error.args[0] if error.args else error
    reason = str(detail.str()) if hasattr(detail, "str") else str(detail)
    name = str(detail.name()) if hasattr(detail, "name") else ""
    if "AUTHORIZATION" in name or "AUTHENTICATION" in name:
        return Failure(f"Kafka refuses this client: {reason}. Check the security settings in [kafka].", WRONG_USE)
    return Failure(f"Kafka: {reason}. `rowcast check` shows what it can reach there.", UNREACHABLE)


def _first_line(error: BaseException) -> str:
    # MySQL drivers give (number, text).
    text = str(error.args[-1]) if len(error.args) > 1 else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")
