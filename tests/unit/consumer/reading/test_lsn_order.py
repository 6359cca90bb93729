"""Messages that were sent twice are known by lsn and content, as far as the memory goes."""

from __future__ import annotations

from rowcast.consumer.reading.lsn_order import MAX_LEAP, LsnMemory, highest_plausible


def test_only_the_same_message_was_read_before() -> None:
    memory = LsnMemory(start=10, size=100)
    memory.remember(12, 1)
    memory.remember(15, 2)
    assert memory.has_read(12, 1)
    assert memory.has_read(15, 2)
    assert memory.has_read(12, 2) is False
    assert memory.has_read(13, 1) is False
    assert memory.has_read(16, 1) is False
    assert memory.has_read(10, 1) is None


def test_old_messages_are_forgotten_and_not_taken_for_new() -> None:
    memory = LsnMemory(start=0, size=10)
    for lsn in range(1, 101):
        memory.remember(lsn, lsn)
    assert memory.has_read(100, 100)
    assert memory.has_read(95, 95)
    assert memory.has_read(95, 96) is False
    assert memory.has_read(50, 50) is None
    memory.forget(100)
    assert memory.has_read(100, 100) is None


def test_the_first_message_has_a_limit_too() -> None:
    assert highest_plausible(7) == 7 + MAX_LEAP
    assert 2**50 < highest_plausible(0) < 2**62
