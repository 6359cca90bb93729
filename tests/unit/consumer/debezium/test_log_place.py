"""Repeated events are known by their place in the database's log."""

from __future__ import annotations

from typing import Any

from rowcast.consumer.debezium.log_place import LogPlace, PlaceMemory, is_snapshot, log_place


def postgresql(committed: int | None, lsn: int) -> LogPlace:
    commit = "null" if committed is None else f'"{committed}"'
    place = log_place({"lsn": lsn, "sequence": f'[{commit},"{lsn}"]'})
    assert place is not None
    return place


def mysql(file: int, pos: int, row: int = 0, **more: Any) -> LogPlace:
    place = log_place({"file": f"mysql-bin.{file:06}", "pos": pos, "row": row, "server_id": 1, **more})
    assert place is not None
    return place


def read(memory: PlaceMemory, *places: LogPlace) -> list[bool]:
    return [memory.is_repetition(place, snapshot=False) for place in places]


def test_overlapping_transactions_are_no_repetition() -> None:
    """The second transaction began before the commit of the first, so its lsn is smaller."""
    first, overlapping, multi = postgresql(None, 120), postgresql(130, 110), postgresql(130, 110)
    assert read(PlaceMemory(), first, overlapping, multi) == [False, False, False]


def test_events_sent_again_are_repetitions_up_to_the_furthest() -> None:
    events = [postgresql(None, 120), postgresql(130, 110), postgresql(130, 125), postgresql(150, 160)]
    memory = PlaceMemory()
    read(memory, *events)
    # The last event may be one of several rows at one place, so it is taken again.
    assert read(memory, *events, postgresql(170, 180)) == [True, True, True, False, False]


def test_a_worker_that_starts_knows_the_transactions_before() -> None:
    assert read(PlaceMemory(150), postgresql(130, 155), postgresql(150, 140), postgresql(150, 160)) == [
        True,
        False,
        False,
    ]


def test_a_snapshot_begins_a_new_history() -> None:
    memory = PlaceMemory()
    read(memory, postgresql(900, 950))
    assert not memory.is_repetition(postgresql(None, 10), snapshot=True)
    assert read(memory, postgresql(None, 20)) == [False]


def test_mysqls_log_is_ordered_by_file_position_and_row() -> None:
    events = [mysql(2, 900), mysql(2, 900, 1), mysql(3, 4), mysql(10, 4)]
    memory = PlaceMemory()
    assert not any(read(memory, *events))
    assert read(memory, *events[:3]) == [True, True, True]


def test_another_server_of_mysql_is_no_repetition() -> None:
    memory = PlaceMemory()
    read(memory, mysql(900, 4, gtid="a-b:77"))
    assert read(memory, mysql(2, 4, gtid="c-d:5")) == [False]
    assert read(PlaceMemory(2**50), mysql(2, 4, gtid="c-d:5")) == [False]


def test_events_without_a_place_and_snapshots_are_recognized() -> None:
    assert log_place({"connector": "mysql", "file": "", "pos": 0}) is None
    assert log_place({}) is None
    assert [is_snapshot({"snapshot": mark}) for mark in ("true", "last", "incremental", "false", None)] == [
        True, True, False, False, False,
    ]  # fmt: skip
