"""The worker process: group membership, the main loop, metrics."""
