"""Who captures a table: the listeners in an application, or triggers in the database; never both.

``rowcast_shape.captured_by`` keeps it, where every application can read it: a database may hide its triggers from those
that have no right to make any.
"""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer import transaction_names
from rowcast.producer.locked_reads import OWN
from rowcast.producer.outbox import missing_of
from rowcast.producer.tables import CapturedTable
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.table_settings import TableSettings


class Capturer(StrEnum):
    """Who writes a table's changes into the outbox."""

    listeners = "listeners"
    triggers = "triggers"
    nobody = "nobody"
    """Its triggers were dropped."""


def capturers(connection: Connection, shape: sa.Table) -> dict[str, Capturer]:
    """By ``schema.table``, of all tables that were ever captured. ``shape``: the table ``rowcast_shape``."""
    row = shape.c
    found = connection.execute(sa.select(row.table_name, row.captured_by).distinct(), execution_options=OWN)
    return {name: Capturer(by) for name, by in found}


def hand_over(connection: Connection, shape: sa.Table, full_name: str, to: Capturer) -> None:
    """Writes down who captures the table from now on."""
    statement = sa.update(shape).where(shape.c.table_name == full_name).values(captured_by=to.value)
    connection.execute(statement, execution_options=OWN)


class ByTriggers:
    """The tables that triggers captured when an engine's listeners first asked."""

    def __init__(self, shape: sa.Table) -> None:
        self._shape = shape
        self._names: frozenset[str] | None = None

    def names(self, connection: Connection) -> frozenset[str]:
        """By ``schema.table``."""
        if self._names is None:
            if missing_of(self._shape, connection):
                # The drain tells of the missing outbox; it may be created yet.
                return frozenset()
            by = capturers(connection, self._shape)
            self._names = frozenset(name for name, capturer in by.items() if capturer is Capturer.triggers)
        return self._names

    def transaction(self, connection: Connection) -> str | None:
        """The name under which triggers write what this transaction changes; None if listeners need not know it."""
        return transaction_names.name(connection) if self.names(connection) else None

    def end(self, connection: Connection) -> None:
        """The transaction has written its last outbox row."""
        if connection.dialect.name == "sqlite" and self.names(connection):
            transaction_names.seal(connection)

    def captures(self, connection: Connection, table: CapturedTable, settings: TableSettings) -> bool:
        """Whether triggers capture the table, so that listeners must leave it alone.

        Raises ConfigurationError if the application and the database do not agree about that.
        """
        there = table.full_name in self.names(connection)
        if there and settings.mode != "triggers":
            raise ConfigurationError(
                f"the table {table.full_name} is captured by triggers in the database, and this application's capture "
                "would write its changes a second time. Say so with Table(info={'rowcast': 'triggers'}), or mode = "
                f'"triggers" in its settings; or drop the triggers: rowcast triggers drop {table.full_name}'
            )
        if settings.mode == "triggers" and not there:
            raise ConfigurationError(
                f"the table {table.full_name} is to be captured by triggers, and has none: its changes would be lost. "
                f'Install them: rowcast triggers install {table.full_name}; or take mode "triggers" out of its '
                "settings or its info['rowcast']."
            )
        return there
