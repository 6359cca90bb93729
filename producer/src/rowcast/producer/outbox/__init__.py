"""The outbox: its tables and its formats, each with writer and parser. Capture, triggers and relay meet only here."""

from rowcast.producer.outbox.schema import outbox_tables

__all__ = ["outbox_tables"]
