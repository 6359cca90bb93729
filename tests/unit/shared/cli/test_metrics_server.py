"""Test the values and the address of the Prometheus metrics."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rowcast.consumer.status.lag import ReplicaStatus, TopicLag
from rowcast.consumer.worker.metrics import WorkerMetrics
from rowcast.consumer.worker.progress import WorkerProgress
from rowcast.producer.outbox.snapshot_requests import SnapshotRequests
from rowcast.producer.relay import RelayProgress
from rowcast.producer.relay.metrics import RelayMetrics
from rowcast.shared.cli.metrics_server import serve_metrics
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, UnreachableError
from support.command_line import rowcast
from support.relay.primary import ORDERS, Primary, line, primary_at


def samples_of(caplog: pytest.LogCaptureFixture, metrics: RelayMetrics | WorkerMetrics) -> dict[str, float]:
    """Return the value of each sample by name and labels without the source, as Prometheus reads them."""
    caplog.clear()
    with caplog.at_level("INFO", "rowcast.metrics"), serve_metrics("0", metrics):
        (where,) = (r.getMessage().removeprefix("metrics at ") for r in caplog.records if r.name == "rowcast.metrics")
        assert where.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(where, timeout=10) as answer:
            text = answer.read().decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    assert {s.labels["source"] for s in samples} == {"shop"}
    return {" ".join((s.name, *(v for k, v in s.labels.items() if k != "source"))): s.value for s in samples}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(source="shop", primary={"url": f"sqlite:///{tmp_path}/primary.db"})


def fill(primary: Primary) -> None:
    primary.add_shapes(ORDERS)
    primary.add("a", line(ORDERS, "c", 1))
    primary.add("b", line(ORDERS, "c", 2))
    with primary.engine.begin() as connection:
        SnapshotRequests(primary.tables).request(connection, ["orders"])


def test_a_relays_state_and_what_waits_in_its_outbox(
    tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with primary_at(tmp_path / "primary.db") as primary:
        fill(primary)
        metrics = RelayMetrics([settings])
        metrics.moved(RelayProgress("shop", "leading", events=7, lsn=12))
        found = samples_of(caplog, metrics)
    assert found["rowcast_relay_state leading"] == 1
    assert sum(value for name, value in found.items() if name.startswith("rowcast_relay_state")) == 1
    assert (found["rowcast_relay_events_total"], found["rowcast_relay_committed_lsn"]) == (7, 12)
    assert (found["rowcast_primary_up"], found["rowcast_outbox_rows"]) == (1, 2)
    assert found["rowcast_parked_transactions"] == 0
    assert found["rowcast_outbox_oldest_seconds"] > 3600
    assert found["rowcast_snapshot_rows requested public.orders"] == 0


def test_a_primary_that_does_not_answer_is_reported_with_the_other_metrics(caplog: pytest.LogCaptureFixture) -> None:
    found = samples_of(caplog, RelayMetrics([Settings(source="shop", primary={"url": "sqlite:////no/where.db"})]))
    assert (found["rowcast_primary_up"], found["rowcast_relay_state starting"]) == (0, 1)
    assert "rowcast_outbox_rows" not in found


def test_a_workers_state_and_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    metrics = WorkerMetrics("shop", "r")
    metrics.moved(WorkerProgress("consistent", True, events=5, transactions=2, lsn=9, behind_ms=1500))
    found = samples_of(caplog, metrics)
    assert (found["rowcast_replica_state r consistent"], found["rowcast_replica_state r loading"]) == (1, 0)
    assert (found["rowcast_worker_active r"], found["rowcast_worker_lsn r"]) == (1, 9)
    assert (found["rowcast_worker_events_total r"], found["rowcast_worker_transactions_total r"]) == (5, 2)
    assert found["rowcast_worker_behind_seconds r"] == 1.5
    assert "rowcast_replica_up r" not in found


def test_the_lag_of_a_replica_is_read_when_prometheus_asks(caplog: pytest.LogCaptureFixture) -> None:
    status = ReplicaStatus("r", "stopped", behind_ms=2_500, topics=(TopicLag("shop.public.a", 3),), reason="bad row")
    found = samples_of(caplog, WorkerMetrics("shop", "r", lambda: status))
    assert (found["rowcast_replica_up r"], found["rowcast_replica_behind_seconds r"]) == (1, 2.5)
    assert found["rowcast_replica_records r"] == 3


def test_a_replica_that_does_not_answer_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    def read_status() -> ReplicaStatus:
        raise UnreachableError("no answer")

    found = samples_of(caplog, WorkerMetrics("shop", "r", read_status))
    assert (found["rowcast_replica_up r"], found["rowcast_replica_state r waiting"]) == (0, 1)
    assert "rowcast_replica_behind_seconds r" not in found


@pytest.mark.parametrize("address", ["", "9464x", ":9464", "localhost:", "127.0.0.1:65536", "127.0.0.1:-1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with (
        pytest.raises(ConfigurationError, match=r"--metrics '.*' is not an address"),
        serve_metrics(address, WorkerMetrics("shop", "r")),
    ):
        pass


@pytest.mark.parametrize("command", ["relay", "worker r"])
def test_an_address_in_use_and_a_missing_library_are_refused(tmp_path: Path, command: str) -> None:
    (tmp_path / "rowcast.toml").write_text(
        'source = "shop"\n[kafka]\n"bootstrap.servers" = "127.0.0.1:1"\n[primary]\nurl = "sqlite:///p.db"\n'
        '[replicas.r]\nurl = "sqlite:///r.db"\n'
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = rowcast(*command.split(), "--metrics", address, cwd=tmp_path)
        assert result.returncode == 2
        assert f"cannot serve metrics at {address}: Address already in use" in result.stderr
        result = rowcast(*command.split(), "--metrics", address, cwd=tmp_path, without="prometheus_client")
        assert result.returncode == 2
        assert "pip install '.[metrics]'" in result.stderr
