"""The producing side's share of ``rowcast status``: the outbox's backlog, and who publishes it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import exc

from rowcast.shared import failures, logs
from rowcast.shared.config import Settings
from rowcast.shared.databases import open_engine, reach
from rowcast.shared.errors import RowcastError
from rowcast.shared.parts import StatusPart, StatusTable

_COLUMNS = ("rows waiting", "oldest", "published up to lsn", "relay")


def outbox(settings: Settings) -> StatusPart:
    """Backlog and lease. A configuration without a primary has none: a worker's machine may know only Kafka."""
    from rowcast.producer.relay import backlog

    if settings.primary is None:
        return StatusPart({"outbox": None})
    try:
        engine = open_engine(settings.primary.sqlalchemy_url, "primary", pooled=False)
        reach(engine, "primary")
        waiting = backlog(engine, settings.source)
    except (RowcastError, exc.DBAPIError) as error:
        failure = failures.known(error)
        if failure is None:
            raise
        return StatusPart({"outbox": {"error": logs.mask(failure.message)}}, failure=failure)
    data: dict[str, Any] = {**asdict(waiting), "leading": waiting.expires_in_ms > 0}
    data["expires_in_ms"] = max(0, waiting.expires_in_ms)
    return StatusPart({"outbox": data}, (_table(settings.source, data),))


def _table(source: str, data: dict[str, Any]) -> StatusTable:
    if data["leading"]:
        leader = f"{data['owner']}, epoch {data['epoch']}"
    else:
        leader = "none leads" if data["epoch"] else "none has run yet"
    oldest = "" if data["oldest_ms"] is None else f"{data['oldest_ms']:,} ms"
    row = (f"{data['rows']:,}", oldest, f"{data['lsn']:,}", leader)
    return StatusTable(f"outbox of {source!r}", _COLUMNS, (row,))
