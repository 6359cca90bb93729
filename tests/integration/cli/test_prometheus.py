"""Prometheus accepts the rules, the board and the metrics, and each rule fires when it should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from rowcast.consumer.replica.positions import Verified
from rowcast.consumer.status.lag import ReplicaStatus
from rowcast.consumer.worker.metrics import WorkerMetrics
from rowcast.consumer.worker.progress import WorkerProgress
from servers.promtool import promtool
from servers.server import ServerError
from support.project import ROOT

RULES = ROOT / "deploy/prometheus/rowcast.rules.yml"
BOARD = ROOT / "deploy/grafana/rowcast.json"
REFERENCE = ROOT / "docs/reference/metrics.md"


@pytest.fixture(scope="session")
def tool() -> str:
    try:
        return promtool()
    except ServerError as error:
        pytest.skip(str(error))


def check(tool: str, *arguments: str, text: bytes | None = None) -> str:
    done = subprocess.run([tool, *arguments], input=text, capture_output=True, check=False)
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output
    return output


def expressions() -> list[str]:
    """Return the expressions of the board, with all sources and replicas."""
    board = json.loads(BOARD.read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [re.sub(r"\$(source|replica)", ".*", one) for one in found]


def test_the_rules_are_valid_and_fire_when_they_should(tool: str) -> None:
    assert "11 rules found" in check(tool, "check", "rules", "--lint-fatal", str(RULES))
    check(tool, "test", "rules", str(RULES.with_suffix(".test.yml")))


def test_prometheus_can_read_every_expression_of_the_board(tool: str, tmp_path: Path) -> None:
    rules = [{"record": f"board:panel{n}", "expr": one} for n, one in enumerate(expressions())]
    file = tmp_path / "board.json"
    file.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    assert f"{len(rules)} rules found" in check(tool, "check", "rules", str(file))


def test_rules_and_board_name_metrics_that_exist() -> None:
    known = set(re.findall(r"rowcast_\w+", REFERENCE.read_text()))
    used = set(re.findall(r"\browcast_\w+", RULES.read_text() + json.dumps(expressions())))
    # One expression names two metrics by a pattern.
    assert used - known - {"rowcast_"} == set()


def test_the_metrics_of_a_worker_follow_prometheus_conventions(tool: str) -> None:
    status = ReplicaStatus("copy", "consistent", behind_ms=10, verified=Verified(1, "equal", 5, 0))
    metrics = WorkerMetrics("shop", "copy", lambda: status)
    metrics.moved(WorkerProgress("consistent", active=True, events=3))
    registry = CollectorRegistry()
    registry.register(metrics)
    check(tool, "check", "metrics", text=generate_latest(registry))
