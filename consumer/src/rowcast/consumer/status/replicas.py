"""Contribute the state, the workers and the lag of each replica to ``rowcast status``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from rowcast.consumer.replica.letter_rows import LetterCounts
from rowcast.consumer.replica.promoted import PROMOTED_STATES
from rowcast.consumer.status.lag import ReplicaStatus, replica_status
from rowcast.shared.cli import exit_codes, logs
from rowcast.shared.cli.contributions import SideStatus, StatusBlock
from rowcast.shared.cli.durations import duration_text
from rowcast.shared.cli.status_document import DeadLettersDocument, NoAnswer, ReplicaDocument, VerifiedDocument
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import RowcastError

_RATE_SAMPLE_S = 1.0
_MOST_THREADS = 16


@dataclass(frozen=True, slots=True)
class Rate:
    """How many records a second the worker applies, and how many fewer wait each second."""

    applied: float
    shrinks: float

    @classmethod
    def between(cls, first: ReplicaStatus, second: ReplicaStatus, seconds: float) -> Rate:
        """Return the rate between two readings of the same replica."""
        applied = max(0, second.next_offsets - first.next_offsets)
        return cls(applied / seconds, (first.records - second.records) / seconds)

    def text(self, records: int) -> str:
        """Return the rate and the time until no record waits, as text."""
        applied = f"{self.applied:,.0f} records/s"
        if self.shrinks <= 0:
            return f"{applied}, not catching up"
        return f"{applied}, caught up in about {duration_text(records / self.shrinks * 1_000)}"


def replicas(settings: Settings, max_behind_s: float) -> SideStatus:
    """Return the state and lag of each replica, or the error of a replica that does not answer.

    A commit that has not been visible in a replica for ``max_behind_s`` is a problem, in addition to the replica's
    schedule and lag.
    """
    data: dict[str, ReplicaDocument | NoAnswer] = {}
    blocks: list[StatusBlock] = []
    problems: list[str] = []
    failed: list[exit_codes.Failure] = []
    for name, reading in zip(settings.replicas, _read_all(settings), strict=True):
        if isinstance(reading, exit_codes.Failure):
            failed.append(reading)
            data[name] = NoAnswer(error=logs.mask(reading.message))
            continue
        status, rate = reading
        data[name] = _document(status, rate)
        lines = (*_lines(status, rate), *_pace(settings.replica(name)))
        blocks.append(StatusBlock(f"replica {name}", lines))
        problems += _problems(status, max_behind_s + settings.replica(name).due_after_s)
    message = "\n".join(failure.message for failure in failed)
    worst = exit_codes.Failure(message, max(f.exit_code for f in failed)) if failed else None
    return SideStatus({"replicas": data}, tuple(blocks), tuple(problems), worst)


def _read_all(settings: Settings) -> list[tuple[ReplicaStatus, Rate | None] | exit_codes.Failure]:
    """Read all replicas side by side. A server that does not answer, and the sample of a rate, take their time."""
    if not settings.replicas:
        return []
    with ThreadPoolExecutor(min(len(settings.replicas), _MOST_THREADS), "rowcast-status") as threads:
        return list(threads.map(lambda name: _read(settings, name), settings.replicas))


def _read(settings: Settings, name: str) -> tuple[ReplicaStatus, Rate | None] | exit_codes.Failure:
    try:
        status = _status(settings, name)
        return status, _rate(settings, status)
    except (RowcastError, DBAPIError) as error:
        failure = exit_codes.to_failure(error)
        if failure is None:
            raise
        return failure


def _status(settings: Settings, name: str) -> ReplicaStatus:
    url = settings.replica(name).sqlalchemy_url
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        # A connection would create the file.
        return ReplicaStatus(name, None)
    return replica_status(settings, name)


def _rate(settings: Settings, status: ReplicaStatus) -> Rate | None:
    """Measure the rate of a replica that is behind and has a worker. None otherwise."""
    if not status.records or not status.workers:
        return None
    began = time.monotonic()
    time.sleep(_RATE_SAMPLE_S)
    return Rate.between(status, replica_status(settings, status.replica), time.monotonic() - began)


def _document(status: ReplicaStatus, rate: Rate | None) -> ReplicaDocument:
    return ReplicaDocument(
        state=status.state,
        reason=status.reason,
        since_ms=status.since_ms,
        workers=status.workers,
        worker_hosts=list(status.worker_hosts),
        worker_partitions=[list(partitions) for partitions in status.worker_partitions],
        owner=status.owner,
        epoch=status.epoch,
        lsn=status.lsn,
        tx=status.tx,
        applied_ts_ms=status.applied_ts_ms,
        records=status.records,
        records_per_s=None if rate is None else round(rate.applied, 1),
        behind_ms=status.behind_ms,
        outbox_read=status.outbox_read,
        verified=None if status.verified is None else VerifiedDocument(**status.verified._asdict()),
        dead_letters=DeadLettersDocument(**status.letters._asdict()),
        topics={lag.topic: lag.records for lag in status.topics},
    )


def _lines(status: ReplicaStatus, rate: Rate | None) -> Iterator[tuple[str, str]]:
    if status.state is None:
        yield "state", "no worker has run yet"
        return
    yield "state", _state(status)
    if status.state in PROMOTED_STATES:
        yield "since", _time(status.since_ms)
        return
    if status.reason is not None:
        yield "since", f"{_time(status.since_ms)}: {status.reason}"
    yield "worker", _worker(status)
    behind = f"{status.records:,} records wait"
    if status.behind_ms:
        behind += f", the oldest commit for {duration_text(status.behind_ms)}"
    yield "behind", behind
    if rate is not None:
        yield "rate", rate.text(status.records)
    waiting = [f"{lag.topic} {lag.records:,}" for lag in status.topics if lag.records]
    if waiting:
        yield "topics", ", ".join(waiting)
    if status.applied_ts_ms:
        yield "applied", f"the commit of {_time(status.applied_ts_ms)}"
    if status.verified is not None:
        last = status.verified
        yield "verified", f"{_time(last.at_ms)}: {last.verdict}, {last.rows:,} rows, {last.differing:,} differ"


def _state(status: ReplicaStatus) -> str:
    but = f" but for {_counted(status.letters)}" if status.letters.events else ""
    return f"{status.state}{but}" + (f" up to lsn {status.lsn:,}" if status.lsn else "")


def _counted(letters: LetterCounts) -> str:
    return "1 transaction" if letters.transactions == 1 else f"{letters.transactions:,} transactions"


def _pace(options: ReplicaSettings) -> Iterator[tuple[str, str]]:
    """Say how the replica is kept behind on purpose."""
    kept = []
    if options.schedule is not None:
        kept.append(f"catches up at {options.schedule}")
    if options.lag:
        kept.append(f"applies nothing younger than {duration_text(options.lag * 1_000)}")
    if options.max_rate is not None:
        kept.append(f"at most {options.max_rate:,} events/s")
    if kept:
        yield "pace", ", ".join(kept)


def _worker(status: ReplicaStatus) -> str:
    """Say which worker applied last, and how many run."""
    last = f"{status.owner}, epoch {status.epoch}"
    if status.workers is None:
        return f"{last}. Kafka does not show how many run"
    if status.workers == 0:
        return f"none runs. The last was {last}"
    if status.worker_partitions:
        shared = zip(status.worker_hosts, status.worker_partitions, strict=True)
        named = [f"{host} ({_numbered(len(partitions))})" for host, partitions in shared]
        return f"{last}. {status.workers} run, on {', '.join(sorted(named))}"
    return f"{last}. {status.workers} run, on {', '.join(sorted(set(status.worker_hosts)))}"


def _numbered(partitions: int) -> str:
    return "1 partition" if partitions == 1 else f"{partitions} partitions"


def _problems(status: ReplicaStatus, max_behind_s: float) -> Iterator[str]:
    """Yield what is wrong with a replica, with the next step."""
    name = status.replica
    start = f"start `rowcast worker {name}`"
    match status.state:
        case None:
            yield f"no worker of replica {name} has run yet: {start}"
            return
        case "suspect" | "stopped":
            yield f"replica {name} is {status.state} since {_time(status.since_ms)}: {status.reason}"
        case "promoting":
            yield f"the promotion of replica {name} is not finished: run `rowcast promote {name}`"
            return
        case "promoted":
            yield f"replica {name} is a primary now: name its url in [primary], and remove [replicas.{name}]"
            return
        case "waiting" | "loading":
            yield f"replica {name} is {status.state}: its rows are not yet a state that the primary had"
    if status.workers == 0 and status.records and status.state != "stopped":
        yield f"no worker of replica {name} runs, and {status.records:,} records wait: {start}"
    elif status.behind_ms > max_behind_s * 1_000:
        yield f"replica {name} is behind: a commit of {duration_text(status.behind_ms)} ago is not visible there"
    if status.letters.events:
        waits = f"{_counted(status.letters)} ({status.letters.events:,} events) in the dead letter topic"
        yield f"replica {name} lacks {waits}: see `rowcast dlq list {name}`"
    if status.verified is not None and status.verified.differing:
        last = status.verified
        differed = f"replica {name} differed from the primary in {last.differing:,} rows at {_time(last.at_ms)}"
        yield f"{differed}: see `rowcast verify {name}`"


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
