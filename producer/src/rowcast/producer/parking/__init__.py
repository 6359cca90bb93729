"""Show, retry and drop parked transactions."""
