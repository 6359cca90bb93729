"""Make Kafka clients, name topics, and write and parse messages."""
