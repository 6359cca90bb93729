"""Capture by triggers in the database: SQL text, procedures and other programs, too, into the same outbox."""
