"""Apply transactions to a replica database."""
