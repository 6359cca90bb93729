"""The relay's protocol holds whatever happens in between, and each of its parts is needed."""

from __future__ import annotations

import dataclasses

import pytest

from unit.protocol_model import Variant, check


@pytest.mark.campaign
def test_a_worker_and_a_committed_reader_see_each_event_once_and_in_order(campaign: bool) -> None:
    result = check(events=4 if campaign else 3)
    print(f"{result.states:,} states")
    assert result.broken is None, "\n".join((result.broken, *result.steps))
    assert result.states > 10_000


@pytest.mark.parametrize(
    ("part", "promise"),
    [
        ("fencing", "a reader of committed data sees"),
        ("marker", "a reader of committed data sees"),
        ("late_deletion", "are deleted"),
        ("same_lsns", "a worker sees"),
        ("fence_first", "a reader of committed data sees"),
        ("fence_both", "a reader of committed data sees"),
        ("flush_first", "a worker sees"),
        ("commit_in_order", "a reader of committed data sees"),
        ("swap_when_claiming", "are deleted"),
        ("recorded_first", "a worker sees"),
    ],
)
def test_without_this_part_a_promise_is_broken(part: str, promise: str) -> None:
    result = check(dataclasses.replace(Variant(), **{part: False}), events=2)
    print(f"without {part}: {result.broken}, after {len(result.steps)} steps of {result.states:,} states")
    assert result.broken is not None
    assert promise in result.broken


def test_the_second_look_at_the_lease_saves_work_and_nothing_else() -> None:
    """Each write compares and swaps, and claims are read after fencing: so a relay that lost its lease harms nobody."""
    assert check(Variant(second_look=False), events=2).broken is None


@pytest.mark.campaign
def test_chunks_of_snapshots_come_where_readers_are(campaign: bool) -> None:
    result = check(events=2, chunks=2 if campaign else 1)
    print(f"{result.states:,} states")
    assert result.broken is None, "\n".join((result.broken, *result.steps))
    assert result.states > 10_000


@pytest.mark.parametrize("part", ["chunk_behind_events", "one_moment", "chunk_read_again", "chunk_with_new_lsns"])
def test_without_this_part_a_chunk_takes_a_reader_elsewhere(part: str) -> None:
    result = check(dataclasses.replace(Variant(), **{part: False}), events=2, chunks=1)
    print(f"without {part}: {result.broken}, after {len(result.steps)} steps of {result.states:,} states")
    assert result.broken is not None
    assert "is told of the state" in result.broken


# One relay can publish what the other cannot: a limit was raised, or is another client's.
PARKING = Variant(unpublishable=((2,), ()))


@pytest.mark.parametrize("unpublishable", [((2,), ()), ((2,), (2,)), ((1, 3), (2,))])
def test_what_is_parked_is_seen_by_nobody_and_the_rest_once_and_in_order(
    unpublishable: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    result = check(Variant(unpublishable=unpublishable), events=3)
    print(f"{result.states:,} states")
    assert result.broken is None, "\n".join((result.broken, *result.steps))
    assert result.states > 10_000


def test_chunks_of_snapshots_come_where_readers_are_when_events_are_parked() -> None:
    result = check(PARKING, events=2, chunks=1)
    print(f"{result.states:,} states")
    assert result.broken is None, "\n".join((result.broken, *result.steps))


@pytest.mark.parametrize("part", ["swap_when_parking", "park_before_claiming"])
def test_without_this_part_of_parking_a_promise_is_broken(part: str) -> None:
    result = check(dataclasses.replace(PARKING, **{part: False}), events=2)
    print(f"without {part}: {result.broken}, after {len(result.steps)} steps of {result.states:,} states")
    assert result.broken is not None
    assert "are parked, and were seen" in result.broken
