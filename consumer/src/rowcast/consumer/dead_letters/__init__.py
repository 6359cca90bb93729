"""The refused events of a replica: write events to the dead letter topic, show, apply, or drop letters."""
