"""The consuming side: the worker, which applies topics to a replica, and verify, which compares it with the primary."""
