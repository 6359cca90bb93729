"""``rowcast rebuild``: fill fresh tables from the topics, and put them in the place of the replica's tables."""
