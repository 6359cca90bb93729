"""``rowcast status``: both sides' shares together; the consuming side's is how far each replica is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from rowcast.consumer.lag import ReplicaStatus, replica_status
from rowcast.shared import failures, logs
from rowcast.shared.config import Settings
from rowcast.shared.errors import RowcastError
from rowcast.shared.parts import STATUS, StatusPart, StatusTable, contributions

_COLUMNS = ("replica", "state", "applied up to lsn", "lag, records", "lag, ms")


def report(settings: Settings, *, as_json: bool) -> int:
    """Prints what all parts say to standard output. The exit code is the first failure's, or 0."""
    parts: list[StatusPart] = [part(settings) for _, part in contributions(STATUS)]
    found = [part.failure for part in parts if part.failure is not None]
    if as_json:
        document: dict[str, Any] = {"source": settings.source}
        for part in parts:
            document |= part.data
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())  # noqa: T201  # the result
    else:
        console = Console(highlight=False)
        for table in (table for part in parts for table in part.tables):
            console.print(_rich(table))
        for failure in found:
            logs.stderr.print(Text.assemble(("error: ", "bold red"), logs.mask(failure.message)), soft_wrap=True)
    return max((failure.exit_code for failure in found), default=0)


def replicas(settings: Settings) -> StatusPart:
    """Each replica's state and lag; one that does not answer is told in its place."""
    data: dict[str, Any] = {}
    rows: list[tuple[str, ...]] = []
    known: list[ReplicaStatus] = []
    failed: list[failures.Failure] = []
    for name in settings.replicas:
        try:
            status = _status(settings, name)
        except (RowcastError, DBAPIError) as error:
            failure = failures.known(error)
            if failure is None:
                raise
            failed.append(failure)
            data[name] = {"error": logs.mask(failure.message)}
            rows.append((name, "?", "", "", ""))
            continue
        known.append(status)
        data[name] = _data(status)
        rows.append(_row(status))
    tables = [StatusTable("replicas", _COLUMNS, tuple(rows))] if rows else []
    if by_topic := _by_topic(known):
        tables.append(by_topic)
    told = "\n".join(failure.message for failure in failed)
    worst = failures.Failure(told, max(f.exit_code for f in failed)) if failed else None
    return StatusPart({"replicas": data}, tuple(tables), worst)


def _status(settings: Settings, name: str) -> ReplicaStatus:
    url = settings.replica(name).sqlalchemy_url
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        # Looking must not make the file.
        return ReplicaStatus(name, None)
    return replica_status(settings, name)


def _data(status: ReplicaStatus) -> dict[str, Any]:
    return {
        "state": status.state,
        "owner": status.owner,
        "lsn": status.lsn,
        "tx": status.tx,
        "records": status.records,
        "behind_ms": status.behind_ms,
        "topics": {lag.topic: lag.records for lag in status.topics},
    }


def _row(status: ReplicaStatus) -> tuple[str, ...]:
    if status.state is None:
        return (status.replica, "no worker has run yet", "", "", "")
    return (status.replica, status.state, f"{status.lsn:,}", f"{status.records:,}", f"{status.behind_ms:,}")


def _by_topic(known: list[ReplicaStatus]) -> StatusTable | None:
    """Records that wait, a topic a row and a replica a column."""
    waiting = {status.replica: {lag.topic: lag.records for lag in status.topics} for status in known}
    topics = sorted({topic for lags in waiting.values() for topic in lags})
    if not topics:
        return None
    rows = tuple(
        (topic, *(f"{lags[topic]:,}" if topic in lags else "" for lags in waiting.values())) for topic in topics
    )
    return StatusTable("lag by topic, records", ("topic", *waiting), rows)


def _rich(table: StatusTable) -> Table:
    shown = Table(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        shown.add_column(column)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown
