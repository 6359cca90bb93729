"""Attempts to become consistent are repeated with a growing pause."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rowcast.consumer import run_worker as exported
from rowcast.consumer.worker import main_loop, run_worker
from rowcast.consumer.worker.main_loop import _ConsistencyAttempts


def test_attempts_begin_at_once_and_then_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(main_loop, "time", SimpleNamespace(monotonic=lambda: now))
    attempts = _ConsistencyAttempts()
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


def test_run_worker_is_found_at_every_door() -> None:
    assert exported is run_worker is main_loop.run_worker
