"""Each event takes effect once, whatever the group of workers believes: every order of steps is tried."""

from __future__ import annotations

import pytest

from support.models.partition_swaps import Broken, Part, search


def test_each_event_takes_effect_once_and_in_order() -> None:
    states = search(4)
    assert isinstance(states, int), states
    assert states > 500


@pytest.mark.parametrize("part", ["swap", "swap in the transaction", "epoch"])
def test_without_this_part_an_event_is_applied_twice_or_lost(part: Part) -> None:
    found = search(3, frozenset([part]))
    assert isinstance(found, Broken)
    print(part, found)
