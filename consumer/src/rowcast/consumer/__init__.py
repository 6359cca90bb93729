"""The consuming side: the worker, which applies topics to a replica, and verify, which compares it with the primary."""

from rowcast.consumer.lag import ReplicaStatus, TopicLag, replica_status

__all__ = ["ReplicaStatus", "TopicLag", "replica_status"]
