"""The pauses between attempts grow, stay below the longest one, and begin again after a success."""

from __future__ import annotations

import random

import pytest

from rowcast.shared.backoff import Backoff


@pytest.fixture(autouse=True)
def without_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)


def test_each_pause_is_twice_the_one_before_up_to_the_longest() -> None:
    backoff = Backoff(first=1.0, longest=5.0)
    assert [backoff.next_pause() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_success_begins_with_the_first_pause_again() -> None:
    backoff = Backoff(first=1.0, longest=5.0)
    backoff.next_pause()
    backoff.next_pause()
    backoff.reset()
    assert backoff.next_pause() == 1.0


def test_a_pause_is_within_the_range_of_its_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for _ in range(100):
        assert 0.5 <= Backoff(first=1.0, longest=5.0).next_pause() <= 1.0
        assert 2.0 <= Backoff(first=1.0, longest=5.0, jitter=(2.0, 3.0)).next_pause() <= 3.0
