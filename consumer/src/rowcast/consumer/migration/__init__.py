"""Compare a replica with the shapes of the source, and let the replica follow by command."""
