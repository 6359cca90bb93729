"""Contribute the backlog, the leader and the snapshots of the outbox to ``rowcast status``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.producer.outbox.backlog import EXCESS_HINT, Backlog, backlog, excess
from rowcast.producer.outbox.parked_rows import parked_transactions
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.outbox.snapshot_requests import SnapshotRequests
from rowcast.shared.cli import exit_codes, logs
from rowcast.shared.cli.contributions import SideStatus, StatusBlock
from rowcast.shared.cli.durations import duration_text
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import RowcastError


def outbox(settings: Settings, max_behind_s: float) -> SideStatus:
    """Return the backlog, the lease and the snapshots. A row that is older than ``max_behind_s`` is a problem.

    Without a primary in the configuration there is nothing to show, because a worker's machine may know only Kafka.
    """
    if settings.primary is None:
        return SideStatus({"outbox": None})
    try:
        engine = open_engine(settings.primary.sqlalchemy_url, "primary", pooled=False)
        reach(engine, "primary")
        waiting = backlog(engine, settings.source)
        with engine.connect() as connection:
            parked = len(parked_transactions(connection))
            # Finished and stopped snapshots need no attention.
            snapshots = SnapshotRequests(outbox_tables(sa.MetaData())).unsettled(connection)
    except (RowcastError, exc.DBAPIError) as error:
        failure = exit_codes.to_failure(error)
        if failure is None:
            raise
        return SideStatus({"outbox": {"error": logs.mask(failure.message)}}, failure=failure)
    data: dict[str, Any] = {**asdict(waiting), "leading": waiting.expires_in_ms > 0, "parked": parked}
    data["expires_in_ms"] = max(0, waiting.expires_in_ms)
    data["alarm"] = excess(waiting, settings.relay)
    shown = [{"table": s.table, "state": s.state.value, "rows": s.rows_read, "reason": s.reason} for s in snapshots]
    blocks = (_block(settings.source, waiting, parked), *((_snapshots(shown),) if shown else ()))
    problems = (*_problems(waiting, settings, parked, max_behind_s), *_snapshot_problems(shown))
    return SideStatus({"outbox": data, "snapshots": shown}, blocks, problems)


def _problems(waiting: Backlog, settings: Settings, parked: int, max_behind_s: float) -> Iterator[str]:
    """Yield what is wrong with the outbox and the relay."""
    if waiting.expires_in_ms <= 0 and waiting.rows:
        yield f"no relay leads, and {waiting.rows:,} outbox rows wait: start `rowcast relay`"
    if alarm := excess(waiting, settings.relay):
        yield f"{alarm}: {EXCESS_HINT}"
    elif waiting.expires_in_ms > 0 and (waiting.oldest_ms or 0) > max_behind_s * 1_000:
        age = duration_text(waiting.oldest_ms or 0)
        yield f"the oldest outbox row has waited for {age}: see the log of the relay {waiting.owner}"
    if parked:
        yield f"transactions are parked: {parked:,}. See `rowcast dlq list --source`"


def _block(source: str, waiting: Backlog, parked: int) -> StatusBlock:
    """Return the lines about the outbox and the relay."""
    if waiting.expires_in_ms > 0:
        leader = f"{waiting.owner} leads, epoch {waiting.epoch}"
    else:
        leader = "none leads" if waiting.epoch else "none has run yet"
    oldest = "" if waiting.oldest_ms is None else f", the oldest for {duration_text(waiting.oldest_ms)}"
    lines = [
        ("relay", leader),
        ("outbox", f"{waiting.rows:,} rows wait{oldest}"),
        ("published", f"to lsn {waiting.lsn:,}"),
    ]
    if parked:
        lines.append(("parked", f"{parked:,} transactions"))
    return StatusBlock(f"source {source}", tuple(lines))


def _snapshots(shown: Sequence[Mapping[str, Any]]) -> StatusBlock:
    lines = [(str(one["table"]), f"{one['state']}, {one['rows']:,} rows") for one in shown]
    return StatusBlock("snapshots", tuple(lines))


def _snapshot_problems(shown: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in shown:
        if one["reason"] is not None:
            table = one["table"]
            yield (
                f"the snapshot of {table} failed: {one['reason']}. To repeat it: rowcast snapshot {table}. To forget "
                f"it: rowcast snapshot --stop {table}"
            )
