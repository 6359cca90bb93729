"""The status of each replica: data, lines, problems with the next step, or the error if it does not answer."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rowcast.consumer.status import replicas
from rowcast.consumer.status.lag import ReplicaStatus, TopicLag
from rowcast.consumer.status.replicas import Rate
from rowcast.shared.cli.contributions import SideStatus
from rowcast.shared.config.replica_settings import ReplicaSettings
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import UnreachableError

_LAG = (TopicLag("shop.public.a", 3), TopicLag("shop.public.b", 0))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Configure two replicas with a file, and a third without a file yet."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.db").touch()
    return Settings(
        source="shop", replicas={n: ReplicaSettings(url=f"sqlite:///{tmp_path}/{n}.db") for n in ("a", "b", "none")}
    )


def of_one(settings: Settings, monkeypatch: pytest.MonkeyPatch, *readings: ReplicaStatus) -> SideStatus:
    """Return the status of a single replica, which is read once for each of ``readings``."""
    rest = list(readings)
    monkeypatch.setattr(replicas, "replica_status", lambda _settings, _name: rest.pop(0))
    monkeypatch.setattr(replicas, "_RATE_SAMPLE_S", 0.0)
    return replicas.replicas(settings.model_copy(update={"replicas": {"a": settings.replicas["a"]}}), 60)


def test_each_replica_has_its_data_or_its_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def replica_status(_settings: Settings, name: str) -> ReplicaStatus:
        if name == "b":
            raise UnreachableError("cannot reach b")
        return ReplicaStatus(name, "consistent", "worker-1", 1_234, "701", 5, 40, _LAG, outbox_read=True, workers=0)

    monkeypatch.setattr(replicas, "replica_status", replica_status)
    part = replicas.replicas(settings, 60)
    assert {name: document.model_dump() for name, document in part.data["replicas"].items()} == {
        "a": {
            "state": "consistent", "reason": None, "since_ms": 0, "workers": 0, "worker_hosts": [], "epoch": 0,
            "worker_partitions": [],
            "owner": "worker-1", "lsn": 1_234, "tx": "701", "applied_ts_ms": 5, "records": 3, "records_per_s": None,
            "behind_ms": 40, "outbox_read": True, "verified": None, "topics": {"shop.public.a": 3, "shop.public.b": 0},
            "dead_letters": {"transactions": 0, "events": 0, "oldest_ms": None},
        },
        "b": {"error": "cannot reach b"},
        "none": {
            "state": None, "reason": None, "since_ms": 0, "workers": None, "worker_hosts": [], "epoch": 0,
            "worker_partitions": [],
            "owner": None, "lsn": 0, "tx": None, "applied_ts_ms": 0, "records": 0, "records_per_s": None,
            "behind_ms": 0, "outbox_read": False, "verified": None, "topics": {},
            "dead_letters": {"transactions": 0, "events": 0, "oldest_ms": None},
        },
    }  # fmt: skip
    assert [block.title for block in part.blocks] == ["replica a", "replica none"]
    assert ("topics", "shop.public.a 3") in part.blocks[0].lines
    assert part.failure is not None
    assert part.failure.exit_code == UnreachableError.exit_code


def test_a_file_that_does_not_exist_is_not_created(settings: Settings, tmp_path: Path) -> None:
    replicas.replicas(settings.model_copy(update={"replicas": {"none": settings.replicas["none"]}}), 60)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (ReplicaStatus("a", None), "no worker of replica a has run yet: start `rowcast worker a`"),
        (ReplicaStatus("a", "loading", workers=1), "replica a is loading"),
        (ReplicaStatus("a", "waiting", workers=1), "replica a is waiting"),
        (ReplicaStatus("a", "suspect", reason="of another timeline", workers=1), "suspect since 1970-01-01 00:00:00"),
        (ReplicaStatus("a", "stopped", reason="a bad row", topics=_LAG, workers=0), "a bad row"),
        (ReplicaStatus("a", "consistent", topics=_LAG, workers=0), "no worker of replica a runs, and 3 records wait"),
        (ReplicaStatus("a", "consistent", behind_ms=61_000, workers=1), "a commit of 1 min 1 s ago is not visible"),
    ],
)
def test_a_problem_is_named_once_with_the_next_step(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, status: ReplicaStatus, problem: str
) -> None:
    (found,) = of_one(settings, monkeypatch, status).problems
    assert problem in found


@pytest.mark.parametrize(
    "status",
    [
        ReplicaStatus("a", "consistent", lsn=7, workers=2, behind_ms=59_000),
        # `rowcast worker a --once` from time to time is a way to run.
        ReplicaStatus("a", "consistent", lsn=7, workers=0),
        ReplicaStatus("a", "consistent", lsn=7, workers=None),
    ],
)
def test_a_replica_that_is_as_it_should_be_has_no_problem(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, status: ReplicaStatus
) -> None:
    assert of_one(settings, monkeypatch, status).problems == ()


def test_a_replica_that_is_behind_shows_its_rate(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ReplicaStatus("a", "consistent", topics=(TopicLag("t", 500),), workers=1, next_offsets=1_000)
    second = ReplicaStatus("a", "consistent", topics=(TopicLag("t", 400),), workers=1, next_offsets=1_200)
    part = of_one(settings, monkeypatch, first, second)
    assert part.data["replicas"]["a"].records_per_s > 0
    assert any(name == "rate" and "caught up in" in text for name, text in part.blocks[0].lines)


def test_the_rates_of_several_replicas_are_measured_side_by_side(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=10)

    def replica_status(_settings: Settings, name: str) -> ReplicaStatus:
        # Nobody passes the barrier alone, so one replica after the other would break it.
        both.wait()
        return ReplicaStatus(name, "consistent", topics=_LAG, workers=1)

    monkeypatch.setattr(replicas, "replica_status", replica_status)
    monkeypatch.setattr(replicas, "_RATE_SAMPLE_S", 0.0)
    part = replicas.replicas(settings, 60)
    assert [block.title for block in part.blocks] == ["replica a", "replica b", "replica none"]
    assert part.failure is None


def test_a_configuration_without_replicas_has_none() -> None:
    assert replicas.replicas(Settings(source="shop"), 60).data == {"replicas": {}}


def test_a_rate_says_when_no_record_waits_any_more() -> None:
    first = ReplicaStatus("a", "consistent", topics=(TopicLag("t", 600),), next_offsets=1_000)
    second = ReplicaStatus("a", "consistent", topics=(TopicLag("t", 500),), next_offsets=1_400)
    rate = Rate.between(first, second, 2.0)
    assert rate.text(500) == "200 records/s, caught up in about 10.0 s"
    assert Rate.between(second, first, 2.0).text(600) == "0 records/s, not catching up"


def test_the_workers_of_a_group_are_shown_with_their_partitions(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    partitions = (("shop.public.a:0", "shop.public.a:1"), ("shop.public.a:2",), ())
    status = ReplicaStatus(
        "a", "following", "a group of workers", 9, workers=3, worker_hosts=("h1", "h2", "h1"), epoch=2,
        worker_partitions=partitions,
    )  # fmt: skip
    part = of_one(settings, monkeypatch, status)
    assert dict(part.blocks[0].lines)["worker"] == (
        "a group of workers, epoch 2. 3 run, on h1 (0 partitions), h1 (2 partitions), h2 (1 partition)"
    )
    assert part.data["replicas"]["a"].worker_partitions == [list(one) for one in partitions]
