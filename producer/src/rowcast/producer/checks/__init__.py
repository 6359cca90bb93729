"""Check the producing side for ``rowcast check``: the primary database with the outbox, and Kafka."""

from rowcast.producer.checks.kafka_topics import kafka
from rowcast.producer.checks.primary import primary

__all__ = ["kafka", "primary"]
