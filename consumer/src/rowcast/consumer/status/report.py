"""``rowcast status``: print the shares of both sides. The share of the consuming side is the lag of each replica."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from rowcast.consumer.status.lag import ReplicaStatus, replica_status
from rowcast.shared.cli import exit_codes, logs
from rowcast.shared.cli.contributions import STATUS, SideStatus, StatusTable, load_contributions
from rowcast.shared.cli.output import print_json
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import RowcastError

_COLUMNS = ("replica", "state", "workers", "applied up to lsn", "lag, records", "lag, ms")


def report(settings: Settings, *, as_json: bool) -> int:
    """Print all parts to standard output. Return the greatest exit code of the failures, or 0."""
    parts: list[SideStatus] = [part(settings) for _, part in load_contributions(STATUS)]
    failures = [part.failure for part in parts if part.failure is not None]
    if as_json:
        document: dict[str, Any] = {"source": settings.source}
        for part in parts:
            document |= part.data
        print_json(document)
    else:
        console = Console(highlight=False)
        for table in (table for part in parts for table in part.tables):
            console.print(_rich_table(table))
            for note in table.notes:
                console.print(Text(f"{note}\n"), soft_wrap=True)
        for failure in failures:
            logs.stderr.print(Text.assemble(("error: ", "bold red"), logs.mask(failure.message)), soft_wrap=True)
    return max((failure.exit_code for failure in failures), default=0)


def replicas(settings: Settings) -> SideStatus:
    """Return the state and lag of each replica, or the error of a replica that does not answer."""
    data: dict[str, Any] = {}
    rows: list[tuple[str, ...]] = []
    known: list[ReplicaStatus] = []
    failed: list[exit_codes.Failure] = []
    for name in settings.replicas:
        try:
            status = _status(settings, name)
        except (RowcastError, DBAPIError) as error:
            failure = exit_codes.to_failure(error)
            if failure is None:
                raise
            failed.append(failure)
            data[name] = {"error": logs.mask(failure.message)}
            rows.append((name, "?", "", "", "", ""))
            continue
        known.append(status)
        data[name] = _data(status)
        rows.append(_row(status))
    notes = tuple(
        f"{status.replica} is {status.state} since {_time(status.since_ms)}: {status.reason}"
        for status in known
        if status.reason is not None
    )
    tables = [StatusTable("replicas", _COLUMNS, tuple(rows), notes)] if rows else []
    if by_topic := _by_topic(known):
        tables.append(by_topic)
    message = "\n".join(failure.message for failure in failed)
    worst = exit_codes.Failure(message, max(f.exit_code for f in failed)) if failed else None
    return SideStatus({"replicas": data}, tuple(tables), worst)


def _status(settings: Settings, name: str) -> ReplicaStatus:
    url = settings.replica(name).sqlalchemy_url
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        # A connection would create the file.
        return ReplicaStatus(name, None)
    return replica_status(settings, name)


def _data(status: ReplicaStatus) -> dict[str, Any]:
    return {
        "state": status.state,
        "reason": status.reason,
        "since_ms": status.since_ms,
        "workers": status.workers,
        "owner": status.owner,
        "lsn": status.lsn,
        "tx": status.tx,
        "records": status.records,
        "behind_ms": status.behind_ms,
        "outbox_read": status.outbox_read,
        "topics": {lag.topic: lag.records for lag in status.topics},
    }


def _row(status: ReplicaStatus) -> tuple[str, ...]:
    if status.state is None:
        return (status.replica, "no worker has run yet", "", "", "", "")
    workers = "?" if status.workers is None else f"{status.workers:,}"
    return (status.replica, status.state, workers, f"{status.lsn:,}", f"{status.records:,}", f"{status.behind_ms:,}")


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _by_topic(known: list[ReplicaStatus]) -> StatusTable | None:
    """Return a table of the unapplied records, with a row for each topic and a column for each replica."""
    waiting = {status.replica: {lag.topic: lag.records for lag in status.topics} for status in known}
    topics = sorted({topic for lags in waiting.values() for topic in lags})
    if not topics:
        return None
    rows = tuple(
        (topic, *(f"{lags[topic]:,}" if topic in lags else "" for lags in waiting.values())) for topic in topics
    )
    return StatusTable("lag by topic, records", ("topic", *waiting), rows)


def _rich_table(table: StatusTable) -> Table:
    shown = Table(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        shown.add_column(column)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown
