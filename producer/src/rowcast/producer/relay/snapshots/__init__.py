"""Read the existing rows of tables chunk by chunk."""
