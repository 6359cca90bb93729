"""Let the replica's tables follow the shapes of the source: what to change, and the statements."""
