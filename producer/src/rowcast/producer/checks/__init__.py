"""What ``rowcast check`` looks at on the producing side: the primary database with its outbox, and Kafka."""

from rowcast.producer.checks.brokers import kafka
from rowcast.producer.checks.outbox import primary

__all__ = ["kafka", "primary"]
