"""Contribute the backlog, the leader and the snapshots of the outbox to ``rowcast status``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.producer.outbox.parked_rows import parked_transactions
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.outbox.snapshot_requests import SnapshotRequests
from rowcast.shared.cli import exit_codes, logs
from rowcast.shared.cli.contributions import SideStatus, StatusTable
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import RowcastError

_COLUMNS = ("rows waiting", "oldest", "published up to lsn", "parked transactions", "relay")


def outbox(settings: Settings) -> SideStatus:
    """Return the backlog, the lease and the snapshots.

    Without a primary in the configuration there is nothing to show, because a worker's machine may know only Kafka.
    """
    from rowcast.producer.outbox.backlog import backlog, excess

    if settings.primary is None:
        return SideStatus({"outbox": None})
    try:
        engine = open_engine(settings.primary.sqlalchemy_url, "primary", pooled=False)
        reach(engine, "primary")
        waiting = backlog(engine, settings.source)
        with engine.connect() as connection:
            parked = parked_transactions(connection)
            # Finished and stopped snapshots need no attention.
            snapshots = SnapshotRequests(outbox_tables(sa.MetaData())).unsettled(connection)
    except (RowcastError, exc.DBAPIError) as error:
        failure = exit_codes.to_failure(error)
        if failure is None:
            raise
        return SideStatus({"outbox": {"error": logs.mask(failure.message)}}, failure=failure)
    data: dict[str, Any] = {**asdict(waiting), "leading": waiting.expires_in_ms > 0}
    data["expires_in_ms"] = max(0, waiting.expires_in_ms)
    shown = [{"table": s.table, "state": s.state.value, "rows": s.rows_read, "reason": s.reason} for s in snapshots]
    data["parked"] = len(parked)
    data["alarm"] = excess(waiting, settings.relay)
    alarms = (StatusTable("alarm", ("outbox",), ((data["alarm"],),)),) if data["alarm"] else ()
    tables = (_table(settings.source, data), *alarms, *((_snapshots(shown),) if shown else ()))
    return SideStatus({"outbox": data, "snapshots": shown}, tables)


def _snapshots(shown: Sequence[Mapping[str, Any]]) -> StatusTable:
    rows = tuple((str(s["table"]), str(s["state"]), f"{s['rows']:,}") for s in shown)
    reasons = tuple(f"{s['table']}: {s['reason']}" for s in shown if s["reason"] is not None)
    return StatusTable("snapshots", ("table", "state", "rows"), rows, reasons)


def _table(source: str, data: dict[str, Any]) -> StatusTable:
    if data["leading"]:
        leader = f"{data['owner']}, epoch {data['epoch']}"
    else:
        leader = "none leads" if data["epoch"] else "none has run yet"
    oldest = "" if data["oldest_ms"] is None else f"{data['oldest_ms']:,} ms"
    row = (f"{data['rows']:,}", oldest, f"{data['lsn']:,}", f"{data['parked']:,}", leader)
    return StatusTable(f"outbox of {source!r}", _COLUMNS, (row,))
