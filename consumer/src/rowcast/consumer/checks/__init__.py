"""Check the replicas for ``rowcast check``: state, tables, rights, and the records kept by Kafka."""

from rowcast.consumer.checks.replicas import replicas

__all__ = ["replicas"]
