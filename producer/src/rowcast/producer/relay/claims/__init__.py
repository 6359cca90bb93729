"""Hold the lease, record claims, and select the outbox rows to publish next. Imports no Kafka client."""
