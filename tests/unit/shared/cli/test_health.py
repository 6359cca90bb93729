"""The pages ``/healthz`` and ``/readyz``, as a supervisor reads them."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import yaml
from prometheus_client import CollectorRegistry

from rowcast.shared.cli.metrics_server import serve_metrics
from rowcast.shared.config.relay_settings import WatchdogSettings
from rowcast.shared.database.sessions import SessionState
from rowcast.shared.database.silence import SilenceWatch
from rowcast.shared.vitals import Pulse, Vitals
from rowcast.shared.watchdog import Watchdog
from servers.paths import REPOSITORY


class Silence(SilenceWatch):
    state: SessionState | None = None

    def state_of(self, thread: int) -> SessionState | None:
        return self.state


@pytest.fixture
def vitals() -> Vitals:
    return Vitals("the worker", {"source": "shop", "replica": "copy"})


@pytest.fixture
def silence() -> Silence:
    return Silence()


@pytest.fixture
def pulse(vitals: Vitals) -> Iterator[Pulse]:
    with vitals.pulse("applying") as pulse:
        yield pulse


@pytest.fixture
def address(vitals: Vitals, silence: Silence, caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    dog = Watchdog(vitals, WatchdogSettings(), silence, None)
    with caplog.at_level("INFO", "rowcast.metrics"), serve_metrics("0", CollectorRegistry(), [dog]):
        yield caplog.records[0].getMessage().removeprefix("metrics at ").removesuffix("/metrics")


def ask(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, orjson.loads(error.read())


def test_a_process_is_ready_after_its_first_step(vitals: Vitals, pulse: Pulse, address: str) -> None:
    status, page = ask(f"{address}/readyz")
    assert (status, page["status"], page["parts"][0]["last_progress_age_s"]) == (503, "not ready", None)
    vitals.note_progress()
    status, page = ask(f"{address}/readyz")
    assert (status, page["status"], page["parts"][0]["replica"]) == (200, "ready", "copy")
    vitals.progress_at = time.time() - 20
    assert ask(f"{address}/readyz")[0] == 503
    assert ask(f"{address}/healthz")[0] == 200


def test_a_process_whose_loop_does_not_go_round_is_stuck(vitals: Vitals, pulse: Pulse, address: str) -> None:
    vitals.note_progress()
    status, page = ask(f"{address}/healthz")
    assert (status, page["status"], page["parts"][0]["loops"][0]["loop"]) == (200, "alive", "applying")
    pulse.forgive(-31)
    status, page = ask(f"{address}/healthz")
    assert (status, page["status"], page["parts"][0]["stuck"]) == (503, "stuck", True)
    assert ask(f"{address}/readyz")[0] == 503


def test_a_process_whose_statement_runs_for_long_is_alive_and_ready(
    vitals: Vitals, pulse: Pulse, silence: Silence, address: str
) -> None:
    vitals.progress_at = time.time() - 600
    pulse.forgive(-600)
    silence.state = SessionState.WORKING
    assert ask(f"{address}/healthz")[0] == 200
    assert ask(f"{address}/readyz")[0] == 200


def test_the_time_of_the_last_progress_is_a_metric(vitals: Vitals, address: str) -> None:
    def metrics() -> str:
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    name = 'rowcast_last_progress_timestamp_seconds{replica="copy",source="shop"}'
    assert name not in metrics()
    vitals.progress_at = 1_700_000_000.0
    assert f"{name} 1.7e+09" in metrics()


def test_the_examples_use_the_pages() -> None:
    documents = list(yaml.safe_load_all((REPOSITORY / "examples/kubernetes/rowcast.yaml").read_text("utf-8")))
    containers = [c for d in documents for c in d["spec"]["template"]["spec"]["containers"]]
    assert [c["command"][1] for c in containers] == ["relay", "worker"]
    for container in containers:
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert container["command"][-1].endswith(str(container["ports"][0]["containerPort"]))
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text("utf-8"))["services"]
    for name in ("relay", "worker-reporting", "worker-archive"):
        port = services[name]["environment"]["ROWCAST_METRICS"].rpartition(":")[2]
        assert f":{port}/readyz" in services[name]["healthcheck"]["test"][-1]
