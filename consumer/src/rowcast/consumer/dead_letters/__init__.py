"""The events that a replica refused: write them to the dead letter topic, show them, apply them, give them up."""
