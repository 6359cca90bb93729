"""Parked transactions are printed for people and as JSON."""

from __future__ import annotations

import orjson
import pytest

from rowcast.producer.outbox.parked_rows import ParkedRow, ParkedTransaction
from rowcast.producer.parking.report import report_rows, report_transactions

TRANSACTION = ParkedTransaction("7", 2, 1_700_000_000_123, 1_700_000_001_000, "a line is cut off")


def test_transactions_are_listed_with_times_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_transactions([TRANSACTION], as_json=False) == 1
    shown = capsys.readouterr().out
    assert "committed 2023-11-14 22:13:20.123 UTC" in shown
    assert "2 outbox rows" in shown
    assert "a line is cut off" in shown


def test_without_transactions_the_exit_code_is_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_transactions([], as_json=False) == 0
    assert capsys.readouterr().out == "no transaction is parked\n"
    assert report_transactions([], as_json=True) == 0
    assert orjson.loads(capsys.readouterr().out) == []


def test_json_has_all_of_a_row_that_people_see_cut(capsys: pytest.CaptureFixture[str]) -> None:
    row = ParkedRow(3, "x" * 1_000 + "\n", '{"actor":"anna"}')
    report_rows([row], as_json=False)
    shown = capsys.readouterr().out
    assert "(1,000 characters)" in shown
    assert 'row 3, context {"actor":"anna"}' in shown
    report_rows([row], as_json=True)
    assert orjson.loads(capsys.readouterr().out) == [{"id": 3, "changes": row.changes, "context": row.context}]


def test_a_damaged_time_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    report_transactions([ParkedTransaction("7", 1, 10**30, 0, "x")], as_json=False)
    assert str(10**30) in capsys.readouterr().out
