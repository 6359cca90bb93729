"""Contribute the backlog, the leader and the snapshots of the outbox to ``rowcast status``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy import exc

from rowcast.producer.outbox.backlog import EXCESS_HINT, Backlog, backlog, excess, outbox_bytes
from rowcast.producer.outbox.parked_rows import parked_transactions
from rowcast.producer.outbox.schema import outbox_tables
from rowcast.producer.outbox.snapshot_requests import SnapshotRequests
from rowcast.producer.outbox.standbys import standbys
from rowcast.shared.cli import exit_codes, logs
from rowcast.shared.cli.contributions import SideStatus, StatusBlock
from rowcast.shared.cli.durations import duration_text, size_text
from rowcast.shared.cli.status_document import NoAnswer, OutboxDocument, SnapshotDocument
from rowcast.shared.config.settings import Settings
from rowcast.shared.database.engines import open_engine, reach
from rowcast.shared.errors import RowcastError


def outbox(settings: Settings, max_behind_s: float) -> SideStatus:
    """Return the backlog, the lease and the snapshots. A row that is older than ``max_behind_s`` is a problem.

    Without a primary in the configuration, show nothing, because a worker's machine may know only Kafka.
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
            tables = outbox_tables(sa.MetaData())
            snapshots = SnapshotRequests(tables).unsettled(connection)
            leader = waiting.owner if waiting.expires_in_ms > 0 else None
            ready = standbys(connection, tables, settings.source, leader)
            size = outbox_bytes(connection, waiting.rows)
    except (RowcastError, exc.DBAPIError) as error:
        failure = exit_codes.to_failure(error)
        if failure is None:
            raise
        return SideStatus({"outbox": NoAnswer(error=logs.mask(failure.message))}, failure=failure)
    document = OutboxDocument(
        **{**asdict(waiting), "expires_in_ms": max(0, waiting.expires_in_ms)},
        bytes=size,
        leading=waiting.expires_in_ms > 0,
        standbys=ready,
        parked=parked,
        alarm=excess(waiting, settings.relay),
    )
    shown = [SnapshotDocument(table=s.table, state=s.state.value, rows=s.rows_read, reason=s.reason) for s in snapshots]
    blocks = (_block(settings.source, document), *((_snapshots(shown),) if shown else ()))
    problems = (*_problems(waiting, settings, parked, max_behind_s), *_snapshot_problems(shown))
    return SideStatus({"outbox": document, "snapshots": shown}, blocks, problems)


def _problems(waiting: Backlog, settings: Settings, parked: int, max_behind_s: float) -> Iterator[str]:
    """Yield the problems of the outbox and the relay."""
    if waiting.expires_in_ms <= 0 and waiting.rows:
        yield f"no relay leads, and {waiting.rows:,} outbox rows wait: start `rowcast relay`"
    if alarm := excess(waiting, settings.relay):
        yield f"{alarm}: {EXCESS_HINT}"
    elif waiting.expires_in_ms > 0 and (waiting.oldest_ms or 0) > max_behind_s * 1_000:
        age = duration_text(waiting.oldest_ms or 0)
        yield f"the oldest outbox row has waited for {age}: see the log of the relay {waiting.owner}"
    if parked:
        yield f"transactions are parked: {parked:,}. See `rowcast dlq list --source`"


def _block(source: str, outbox: OutboxDocument) -> StatusBlock:
    """Return the lines about the outbox and the relays."""
    if outbox.leading:
        leader = f"{outbox.owner} leads, epoch {outbox.epoch}"
    else:
        leader = "none leads" if outbox.epoch else "none has run yet"
    oldest = "" if outbox.oldest_ms is None else f", the oldest for {duration_text(outbox.oldest_ms)}"
    size = f", {size_text(outbox.bytes)}" if outbox.rows else ""
    lines = [("relay", leader)]
    if outbox.leading or outbox.standbys:
        lines.append(("standby", ", ".join(outbox.standbys) or "none"))
    lines += [
        ("outbox", f"{outbox.rows:,} rows wait{size}{oldest}"),
        ("published", f"to lsn {outbox.lsn:,}"),
    ]
    if outbox.parked:
        lines.append(("parked", f"{outbox.parked:,} transactions"))
    return StatusBlock(f"source {source}", tuple(lines))


def _snapshots(shown: Sequence[SnapshotDocument]) -> StatusBlock:
    lines = [(one.table, f"{one.state}, {one.rows:,} rows") for one in shown]
    return StatusBlock("snapshots", tuple(lines))


def _snapshot_problems(shown: Sequence[SnapshotDocument]) -> Iterator[str]:
    for one in shown:
        if one.reason is not None:
            yield (
                f"the snapshot of {one.table} failed: {one.reason}. To repeat it: rowcast snapshot {one.table}. To "
                f"forget it: rowcast snapshot --stop {one.table}"
            )
