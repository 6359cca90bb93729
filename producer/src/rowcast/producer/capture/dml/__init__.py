"""Find the keys of the rows changed by a DML statement, directly or through foreign keys."""
