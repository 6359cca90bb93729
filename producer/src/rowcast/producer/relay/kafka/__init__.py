"""Talk to Kafka: producers, topics, marker and size limits of the relay."""
