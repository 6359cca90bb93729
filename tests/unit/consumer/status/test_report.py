"""``rowcast status`` says first whether everything is all right, in a terminal of 80 columns too."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from rowcast.consumer.status import report
from rowcast.shared.cli.contributions import SideStatus, StatusBlock
from rowcast.shared.cli.exit_codes import Failure
from rowcast.shared.cli.status_document import ReplicaDocument
from rowcast.shared.config.settings import Settings

SETTINGS = Settings(source="shop")
_BLOCK = StatusBlock("replica a", (("state", "consistent up to lsn 7"),))


def contributed(monkeypatch: pytest.MonkeyPatch, *parts: SideStatus) -> None:
    entries = [(str(n), lambda _settings, _behind, part=part: part) for n, part in enumerate(parts)]
    monkeypatch.setattr(report, "load_contributions", lambda _group: entries)
    monkeypatch.setenv("COLUMNS", "80")


def test_the_first_line_is_the_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    contributed(monkeypatch, SideStatus({}, (_BLOCK,)))
    assert report.report(SETTINGS, as_json=False, max_behind_s=60) == 0
    assert capsys.readouterr().out.splitlines() == [
        "all right", "", "replica a", "  state      consistent up to lsn 7",
    ]  # fmt: skip


def test_problems_come_first_and_are_never_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "rowcast worker copy --skip shop.public.orders_of_the_last_ten_years:0:4711"
    problem = f"replica a is stopped: topic shop.public.orders, offset 4711: not a change event. To go on: {command}"
    contributed(monkeypatch, SideStatus({}, (_BLOCK,)), SideStatus({}, (), (problem,)))
    assert report.report(SETTINGS, as_json=False, max_behind_s=60) == 1
    assert capsys.readouterr().out.splitlines()[:3] == ["not all right: 1 problem", f"- {problem}", ""]


def test_a_server_that_does_not_answer_is_a_problem_with_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    down = SideStatus({"replicas": {"b": {"error": "down"}}}, failure=Failure("cannot reach b", 3))
    contributed(monkeypatch, SideStatus({"outbox": None}, (), ("a relay",)), down)
    assert report.report(SETTINGS, as_json=True, max_behind_s=60) == 3
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["problems"]) == (False, ["cannot reach b", "a relay"])
    assert document["replicas"] == {"b": {"error": "down"}}


def test_watch_shows_a_curve_of_the_records_that_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing: dict[str, Any] = dict.fromkeys(ReplicaDocument.model_fields)
    waiting = ReplicaDocument.model_construct(**{**nothing, "records": 1_200})
    contributed(monkeypatch, SideStatus({"replicas": {"a": waiting}}, (_BLOCK,)))
    stop = threading.Event()
    stop.set()
    assert report.watch(SETTINGS, stop, max_behind_s=60, interval_s=0.01) == 0
    assert "a          █ 1,200" in capsys.readouterr().out


def test_a_curve_has_a_bar_for_each_value() -> None:
    assert report.curve([0, 1, 50, 100]) == "▁▂▅█"
    assert report.curve([0, 0]) == "▁▁"
