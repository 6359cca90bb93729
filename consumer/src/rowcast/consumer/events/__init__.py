"""Hold the values that the reading room hands to the replica: changes, transactions, positions."""
