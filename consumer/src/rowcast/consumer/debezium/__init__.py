"""Read the topics that Debezium's connectors write. Events become changes here, before the replica."""
