"""Lead a source for one epoch: claim, publish and delete outbox rows."""
