"""Use the public API as an application does.

mypy checks the file in ``make types``, and nothing runs it. Lines with an intended error carry a ``type: ignore`` with
the error's code. mypy reports an unnecessary ignore.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, assert_type

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from rowcast import consumer, producer
from rowcast.consumer import ReplicaStatus, TopicLag, VerifyResult, WorkerProgress, replica_status, run_worker, verify
from rowcast.producer import Capture, Finding, Settings, TableSettings, Verdict, load, relay


def configuration() -> Settings:
    assert_type(load(), Settings)
    assert_type(load(Path("rowcast.toml")), Settings)
    load("rowcast.toml")  # type: ignore[arg-type]
    settings = load()
    assert_type(settings.source, str)
    settings.source = "other"  # type: ignore[misc]
    return settings


def capture(metadata: sa.MetaData, engine: sa.Engine, settings: Settings) -> Capture:
    assert_type(Capture.from_settings(metadata, settings), Capture)
    Capture(metadata)  # type: ignore[call-arg]
    Capture(metadata, "shop")  # type: ignore[call-arg]
    Capture(metadata, source="shop", strict="often")  # type: ignore[arg-type]
    made = Capture(
        metadata,
        source="shop",
        strict="raise",
        tables={"orders": TableSettings(capture=False), "customers": {"columns": {"email": {"mask": "***"}}}},
        context=lambda: {"actor": "anna"},
    )
    sessions: sessionmaker[Session] = sessionmaker(engine)
    made.install(sessions)
    made.uninstall(sessions)
    assert_type(made.context(actor="anna"), AbstractContextManager[None])
    with sessions() as session:
        made.flush(session.connection())
        made.flush(session)  # type: ignore[arg-type]
    stop = made.on_commit(lambda: None)
    stop()
    return made


def findings(capture: Capture, engine: sa.Engine) -> list[str]:
    found = capture.check(engine)
    assert_type(found, list[Finding])
    for finding in found:
        assert_type(finding.table, str)
        assert_type(finding.message, str)
        assert_type(finding.hint, str)
        assert_type(finding.verdict, Verdict)
        finding.message = ""  # type: ignore[misc]
        finding.mend  # type: ignore[attr-defined]  # noqa: B018  # the name before 0.2.0
    return [f"{finding.table}: {finding.message}" for finding in found]


def relay_in_the_application(settings: Settings, capture: Capture, engine: sa.Engine) -> None:
    def show(progress: relay.RelayProgress) -> None:
        assert_type(progress.events, int)

    with relay.running(settings, capture, show) as thread:
        assert_type(thread, relay.RelayThread)
        assert_type(thread.is_running, bool)
        assert_type(thread.error, BaseException | None)
    with relay.running(settings):
        pass
    relay.running(settings, engine)  # type: ignore[arg-type]
    assert_type(relay.run_relay(settings, True, threading.Event()), relay.RelayProgress)
    assert_type(relay.backlog(engine, "shop"), relay.Backlog)
    with relay.embedded_kafka() as brokers:
        assert_type(brokers, str)


def replica(settings: Settings, stop: threading.Event) -> None:
    def show(progress: WorkerProgress) -> None:
        assert_type(progress.lsn, int)

    assert_type(run_worker(settings, "reporting", once=True, stop=stop, on_progress=show), WorkerProgress)
    run_worker(settings, "reporting", True)  # type: ignore[call-arg]
    result = verify(settings, "reporting", tables=["public.*"])
    assert_type(result, VerifyResult)
    assert_type(result.equal, bool)
    verify(settings)  # type: ignore[call-arg]
    status = replica_status(settings, "reporting")
    assert_type(status, ReplicaStatus)
    assert_type(status.topics, tuple[TopicLag, ...])
    assert_type(status.records, int)


def errors() -> Sequence[type[producer.RowcastError]]:
    tree: Mapping[str, type[producer.RowcastError]] = {
        "use": producer.ConfigurationError,
        "extra": producer.MissingExtraError,
        "away": producer.UnreachableError,
        "data": consumer.DataError,
        "again": consumer.RetriableError,
        "fenced": consumer.FencedError,
        "capture": producer.CaptureError,
    }
    assert_type(producer.RowcastError("why").exit_code, int)
    wrong: type[producer.ConfigurationError] = producer.DataError  # type: ignore[assignment]
    return [*tree.values(), wrong]


def private() -> Any:
    return producer.capture.hook.PRIVATE  # type: ignore[attr-defined]
