"""Turn outbox rows into Kafka messages. Imports no Kafka client."""
