"""Check the replicas for ``rowcast check``: their state, tables, rights, and what Kafka still keeps for them."""

from rowcast.consumer.checks.replicas import replicas

__all__ = ["replicas"]
