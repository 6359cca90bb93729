"""Read from replicas that are fresh enough: ``ReadReplica`` and ``RoutingSession``."""
