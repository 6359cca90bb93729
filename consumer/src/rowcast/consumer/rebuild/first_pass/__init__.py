"""Fill the fresh tables of a rebuild by several processes, each for a share of the partitions."""
