"""The worker process: group membership, the main loop, metrics."""

from rowcast.consumer.worker.main_loop import run_worker

__all__ = ["run_worker"]
