"""Say what a replica lacks against the shapes of the source, and let it follow by command."""
