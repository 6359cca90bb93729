"""The producing side's share of ``rowcast status``: the outbox's backlog, and who publishes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.producer.outbox import outbox_tables
from rowcast.producer.parked import parked_transactions
from rowcast.producer.snapshots import OPEN, Snapshots, State
from rowcast.shared import failures, logs
from rowcast.shared.config import Settings
from rowcast.shared.databases import open_engine, reach
from rowcast.shared.errors import RowcastError
from rowcast.shared.parts import StatusPart, StatusTable

# What is done or was stopped is nobody's concern any more.
_SHOWN = (*OPEN, State.failed)
_COLUMNS = ("rows waiting", "oldest", "published up to lsn", "parked transactions", "relay")


def outbox(settings: Settings) -> StatusPart:
    """Backlog and lease. A configuration without a primary has none: a worker's machine may know only Kafka."""
    from rowcast.producer.relay import backlog

    if settings.primary is None:
        return StatusPart({"outbox": None})
    try:
        engine = open_engine(settings.primary.sqlalchemy_url, "primary", pooled=False)
        reach(engine, "primary")
        waiting = backlog(engine, settings.source)
        with engine.connect() as connection:
            parked = parked_transactions(connection)
            snapshots = [s for s in Snapshots(outbox_tables(sa.MetaData())).all(connection) if s.state in _SHOWN]
    except (RowcastError, exc.DBAPIError) as error:
        failure = failures.known(error)
        if failure is None:
            raise
        return StatusPart({"outbox": {"error": logs.mask(failure.message)}}, failure=failure)
    data: dict[str, Any] = {**asdict(waiting), "leading": waiting.expires_in_ms > 0}
    data["expires_in_ms"] = max(0, waiting.expires_in_ms)
    shown = [{"table": s.table, "state": s.state.value, "rows": s.rows_read, "reason": s.reason} for s in snapshots]
    data["parked"] = len(parked)
    tables = (_table(settings.source, data), *((_snapshots(shown),) if shown else ()))
    return StatusPart({"outbox": data, "snapshots": shown}, tables)


def _snapshots(shown: Sequence[Mapping[str, Any]]) -> StatusTable:
    rows = tuple((str(s["table"]), str(s["state"]), f"{s['rows']:,}", str(s["reason"] or "")) for s in shown)
    return StatusTable("snapshots", ("table", "state", "rows", "reason"), rows)


def _table(source: str, data: dict[str, Any]) -> StatusTable:
    if data["leading"]:
        leader = f"{data['owner']}, epoch {data['epoch']}"
    else:
        leader = "none leads" if data["epoch"] else "none has run yet"
    oldest = "" if data["oldest_ms"] is None else f"{data['oldest_ms']:,} ms"
    row = (f"{data['rows']:,}", oldest, f"{data['lsn']:,}", f"{data['parked']:,}", leader)
    return StatusTable(f"outbox of {source!r}", _COLUMNS, (row,))
