"""The report shows the status of each replica, or the error if a replica does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from rowcast.consumer.status import report
from rowcast.consumer.status.lag import ReplicaStatus, TopicLag
from rowcast.shared.config.settings import ReplicaSettings, Settings
from rowcast.shared.errors import UnreachableError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Configure two replicas with a file, and a third without a file yet."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.db").touch()
    return Settings(
        source="shop", replicas={n: ReplicaSettings(url=f"sqlite:///{tmp_path}/{n}.db") for n in ("a", "b", "none")}
    )


def test_each_replica_has_a_row_or_its_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def replica_status(_settings: Settings, name: str) -> ReplicaStatus:
        if name == "b":
            raise UnreachableError("cannot reach b")
        lag = (TopicLag("shop.public.a", 3),)
        return ReplicaStatus(name, "consistent", "worker-1", 1_234, "701", 5, 40, lag, outbox_read=True, workers=2)

    monkeypatch.setattr(report, "replica_status", replica_status)
    part = report.replicas(settings)
    assert part.data["replicas"] == {
        "a": {
            "state": "consistent", "reason": None, "since_ms": 0, "workers": 2,
            "owner": "worker-1", "lsn": 1_234, "tx": "701", "records": 3, "behind_ms": 40, "outbox_read": True,
            "topics": {"shop.public.a": 3},
        },
        "b": {"error": "cannot reach b"},
        "none": {
            "state": None, "reason": None, "since_ms": 0, "workers": None,
            "owner": None, "lsn": 0, "tx": None, "records": 0, "behind_ms": 0, "outbox_read": False, "topics": {},
        },
    }  # fmt: skip
    replicas, topics = part.tables
    assert replicas.rows == (
        ("a", "consistent", "2", "1,234", "3", "40"),
        ("b", "?", "", "", "", ""),
        ("none", "no worker has run yet", "", "", "", ""),
    )
    assert topics.columns == ("topic", "a", "none")
    assert topics.rows == (("shop.public.a", "3", ""),)
    assert part.failure is not None
    assert part.failure.exit_code == UnreachableError.exit_code


def test_a_file_that_does_not_exist_is_not_created(settings: Settings, tmp_path: Path) -> None:
    report.replicas(settings.model_copy(update={"replicas": {"none": settings.replicas["none"]}}))
    assert not (tmp_path / "none.db").exists()


def test_a_reason_is_never_cut_in_a_narrow_terminal(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "rowcast worker copy --skip shop.public.orders_of_the_last_ten_years:0:4711"
    reason = f"topic shop.public.orders, partition 0, offset 4711: not a change event. To leave it out: {command}"

    def replica_status(_settings: Settings, name: str) -> ReplicaStatus:
        return ReplicaStatus(name, "stopped", reason=reason, since_ms=1_000, workers=0)

    monkeypatch.setattr(report, "replica_status", replica_status)
    monkeypatch.setattr(report, "load_contributions", lambda _group: [("consumer", report.replicas)])
    monkeypatch.setenv("COLUMNS", "80")
    assert report.report(settings, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"a is stopped since 1970-01-01 00:00:01 UTC: {reason}" in lines
    assert [line.split()[:2] for line in lines if line.startswith(" a ")] == [["a", "stopped"]]
