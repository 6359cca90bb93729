"""Check that the relay's protocol keeps its promises in every order of steps, and that it needs each part.

Two events, or an event and a chunk, are enough to show the need for each part. A normal run therefore has this size,
and the campaign has more events.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from support.models.relay_protocol import Variant, check


def without(part: str, whole: Variant | None = None) -> Variant:
    switched_off: dict[str, Any] = {part: False}
    return dataclasses.replace(whole or Variant(), **switched_off)


@pytest.mark.campaign
def test_a_worker_and_a_committed_reader_see_each_event_once_and_in_order(campaign: bool) -> None:
    result = check(events=4 if campaign else 2)
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
        ("replay_in_order", "a worker sees"),
    ],
)
def test_without_this_part_a_promise_is_broken(part: str, promise: str) -> None:
    result = check(without(part), events=2)
    print(f"without {part}: {result.broken}, after {len(result.steps)} steps of {result.states:,} states")
    assert result.broken is not None
    assert promise in result.broken


def test_the_second_check_of_the_lease_only_saves_work() -> None:
    """A relay without its lease does no harm: each write compares and swaps, and claims are read after fencing."""
    assert check(Variant(second_look=False), events=2).broken is None


@pytest.mark.campaign
def test_chunks_of_snapshots_come_where_readers_are(campaign: bool) -> None:
    result = check(events=2, chunks=2) if campaign else check(events=1, chunks=1)
    print(f"{result.states:,} states")
    assert result.broken is None, "\n".join((result.broken, *result.steps))
    assert result.states > 10_000


@pytest.mark.parametrize("part", ["chunk_behind_events", "one_moment", "chunk_read_again", "chunk_with_new_lsns"])
def test_without_this_part_a_chunk_takes_a_reader_elsewhere(part: str) -> None:
    result = check(without(part), events=1, chunks=1)
    print(f"without {part}: {result.broken}, after {len(result.steps)} steps of {result.states:,} states")
    assert result.broken is not None
    assert "reads the state" in result.broken


# A relay can publish an event that the second relay cannot publish, because their limits differ.
PARKING = Variant(unpublishable=((2,), ()))


@pytest.mark.campaign
@pytest.mark.parametrize("unpublishable", [((2,), ()), ((2,), (2,)), ((1, 3), (2,))])
def test_parked_events_are_never_seen_and_the_rest_once_and_in_order(
    unpublishable: tuple[tuple[int, ...], tuple[int, ...]], campaign: bool
) -> None:
    result = check(Variant(unpublishable=unpublishable), events=3 if campaign else 2)
    print(f"{result.states:,} states")
    assert result.broken is None, "\n".join((result.broken, *result.steps))
    assert result.states > 5_000


@pytest.mark.campaign
def test_chunks_of_snapshots_come_where_readers_are_when_events_are_parked(campaign: bool) -> None:
    unpublishable: tuple[tuple[int, ...], tuple[int, ...]] = ((2,), ()) if campaign else ((1,), ())
    result = check(Variant(unpublishable=unpublishable), events=2 if campaign else 1, chunks=1)
    print(f"{result.states:,} states")
    assert result.broken is None, "\n".join((result.broken, *result.steps))


@pytest.mark.parametrize("part", ["swap_when_parking", "park_before_claiming"])
def test_without_this_part_of_parking_a_promise_is_broken(part: str) -> None:
    result = check(without(part, PARKING), events=2)
    print(f"without {part}: {result.broken}, after {len(result.steps)} steps of {result.states:,} states")
    assert result.broken is not None
    assert "are parked, and were seen" in result.broken
