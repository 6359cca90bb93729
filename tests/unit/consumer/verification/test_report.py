"""The output of verify names tables and rows, and the exit code says whether a row differs."""

from __future__ import annotations

import json

import pytest

from rowcast.consumer.verification.comparison import Difference, TableResult, VerifyResult
from rowcast.consumer.verification.report import report

EQUAL = TableResult("public.city", 1, 0, 0, 0, ())
STOPPED = "(not compared to its end, because too many rows differ)"
DIFFERENT = TableResult(
    "public.house",
    1_200,
    1,
    0,
    29,
    (Difference("missing", {"id": 1}), Difference("different", {"id": 2}, ("name", "n"))),
    stopped=True,
)


def test_equal_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(VerifyResult((EQUAL,)), as_json=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        "equal      public.city: 1 row",
        "equal: 1 row in 1 tables",
    ]


def test_differing_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(VerifyResult((EQUAL, DIFFERENT)), as_json=False) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"different  public.house: 1,200 rows, 1 not in the replica, 29 different {STOPPED}",
        "           id=1: not in the replica",
        "           id=2: name, n",
        "           and 28 more",
        "different: 1 of 2 tables",
    ]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(VerifyResult((EQUAL, DIFFERENT)), as_json=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["equal"], document["rows"]) == (False, 1_201)
    assert document["tables"][1] == {
        "table": "public.house", "rows": 1_200, "missing": 1, "extra": 0, "different": 29, "stopped": True,
        "equal": False,
        "differences": [
            {"kind": "missing", "key": {"id": 1}, "columns": []},
            {"kind": "different", "key": {"id": 2}, "columns": ["name", "n"]},
        ],
    }  # fmt: skip
