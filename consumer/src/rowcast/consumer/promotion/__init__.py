"""Make a replica a primary: counters, defaults, indexes, and the end of its workers."""
