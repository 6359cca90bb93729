"""Read from fresh replicas: ``ReadReplica`` and ``RoutingSession``."""
