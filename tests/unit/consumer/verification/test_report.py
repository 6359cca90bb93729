"""The output of verify names tables and rows, and the exit code says whether a row differs."""

from __future__ import annotations

import json

import pytest

from rowcast.consumer.verification.report import report
from rowcast.consumer.verification.results import Difference, TableResult, VerifyResult

EQUAL = TableResult("public.city", 1, 0, 0, 0, ())
STOPPED = "(not compared to its end, because too many rows differ)"
DIFFERENT = TableResult(
    "public.house",
    1_200,
    1,
    0,
    29,
    (Difference("missing", {"id": 0}), *(Difference("different", {"id": n}, ("name", "n")) for n in range(1, 30))),
    stopped=True,
)


def test_equal_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(VerifyResult((EQUAL,)), as_json=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        "equal      public.city: 1 row",
        "equal: 1 row in 1 table",
    ]


def test_differing_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(VerifyResult((EQUAL, DIFFERENT)), as_json=False) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"different  public.house: 1,200 rows, 1 not in the replica, 29 different {STOPPED}",
        "           by column: name 29, n 29",
        "           id=0: not in the replica",
        *(f"           id={n}: name, n" for n in range(1, 20)),
        "           and 10 more. --json has all of them",
        "different: 1 of 2 tables",
    ]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(VerifyResult((EQUAL, DIFFERENT)), as_json=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["equal"], document["verdict"], document["rows"]) == (False, "different", 1_201)
    table = document["tables"][1]
    differences = table.pop("differences")
    assert table == {
        "table": "public.house", "rows": 1_200, "missing": 1, "extra": 0, "different": 29, "behind": 0,
        "stopped": True, "view": "", "equal": False, "columns": {"name": 29, "n": 29},
    }  # fmt: skip
    assert len(differences) == 30
    assert differences[:2] == [
        {"kind": "missing", "key": {"id": 0}, "columns": []},
        {"kind": "different", "key": {"id": 1}, "columns": ["name", "n"]},
    ]


def test_a_replica_that_is_behind(capsys: pytest.CaptureFixture[str]) -> None:
    late = TableResult("public.house", 10, 0, 0, 0, (), behind=3)
    assert report(VerifyResult((EQUAL, late), reason="the relay sleeps"), as_json=False) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "behind     public.house: 10 rows, 3 behind",
        "behind: 3 rows could not be compared at one position, because the relay sleeps",
    ]


@pytest.mark.parametrize("tables", [(), (TableResult("public.empty", 0, 0, 0, 0, ()),)])
def test_nothing_compared_is_no_success(tables: tuple[TableResult, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert report(VerifyResult(tables), as_json=False) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("nothing compared: ")
