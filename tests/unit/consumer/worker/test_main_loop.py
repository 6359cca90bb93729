"""The worker has one function, under several names."""

from __future__ import annotations

from rowcast.consumer import run_worker as exported
from rowcast.consumer.worker import main_loop, run_worker


def test_run_worker_is_found_at_every_door() -> None:
    assert exported is run_worker is main_loop.run_worker
