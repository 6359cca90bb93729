"""Define the commands of the producing side: check, demo, dlq, relay, snapshot, triggers."""
