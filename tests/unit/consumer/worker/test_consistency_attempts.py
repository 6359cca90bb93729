"""Attempts to become consistent are repeated with a growing pause."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rowcast.consumer.worker import consistency_attempts
from rowcast.consumer.worker.consistency_attempts import ConsistencyAttempts


def test_attempts_begin_at_once_and_then_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(consistency_attempts, "time", SimpleNamespace(monotonic=lambda: now))
    attempts = ConsistencyAttempts()
    assert not attempts.is_due()
    attempts.request()
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        assert attempts.is_due()
        attempts.finish(False)
        now += pause - 0.1
        assert not attempts.is_due()
        now += 0.2
    attempts.finish(True)
    now += 1_000
    assert not attempts.is_due()
    attempts.request()
    attempts.cancel()
    assert not attempts.is_due()
