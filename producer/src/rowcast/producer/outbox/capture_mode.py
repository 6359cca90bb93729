"""Record whether a table is captured by the listeners in an application or by triggers in the database.

Each table has a single capture mode, in ``rowcast_shape.captured_by``, where every application can read it. The
catalogue would not do, because a database may hide triggers from roles without the right to create triggers.
"""

from __future__ import annotations

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect, transaction_ids
from rowcast.producer.database.dialects.statement_options import INTERNAL_STATEMENT, UNTRANSLATED
from rowcast.producer.outbox.schema import missing_parts
from rowcast.producer.tables.captured import CapturedTable
from rowcast.shared.config.table_settings import TableSettings
from rowcast.shared.database.schema_names import default_schema
from rowcast.shared.errors import ConfigurationError

_OPTIONS = {**UNTRANSLATED, **INTERNAL_STATEMENT}


class CaptureMode(StrEnum):
    """Say who writes the changes of a table into the outbox."""

    listeners = "listeners"
    triggers = "triggers"
    nobody = "nobody"
    """The triggers of the table were dropped, and no listener has written since."""


def capture_modes(connection: Connection, shape: sa.Table) -> dict[str, CaptureMode]:
    """Return the capture mode of each table in ``rowcast_shape``, by full name.

    ``shape``: the table ``rowcast_shape``.
    """
    row = shape.c
    found = connection.execute(sa.select(row.table_name, row.captured_by).distinct(), execution_options=_OPTIONS)
    return {name: CaptureMode(by) for name, by in found}


def set_capture_mode(connection: Connection, shape: sa.Table, full_name: str, to: CaptureMode) -> None:
    """Record who captures the table from now on."""
    statement = sa.update(shape).where(shape.c.table_name == full_name).values(captured_by=to.value)
    connection.execute(statement, execution_options=_OPTIONS)


class TriggerCapturedTables:
    """Cache the names of an engine's tables with triggers, from the first question on."""

    def __init__(self, shape: sa.Table) -> None:
        self._shape = shape
        self._names: frozenset[str] | None = None

    def names(self, connection: Connection) -> frozenset[str]:
        """Return the full names of the tables with the capture mode triggers."""
        if self._names is None:
            # The session may have moved to the schema of a tenant, by SET search_path or USE.
            schema = self._shape.schema or default_schema(connection.dialect)
            shape = self._shape.to_metadata(sa.MetaData(), schema=schema)
            if missing_parts(shape, connection):
                # The outbox may be created later. Until then the drain reports the missing outbox.
                return frozenset()
            by = capture_modes(connection, shape)
            self._names = frozenset(name for name, capturer in by.items() if capturer is CaptureMode.triggers)
        return self._names

    def transaction_id(self, connection: Connection) -> str | None:
        """Return the id under which triggers write the transaction's changes.

        Return None if no table is captured by triggers, or if the database itself knows the id.
        """
        return (
            capture_dialect(connection.dialect).trigger_transaction_id(connection) if self.names(connection) else None
        )

    def seal(self, connection: Connection) -> None:
        """End the use of the transaction's token, because the transaction has written its last outbox row.

        Only dialects with ``has_transaction_token`` need the call.
        """
        if self.names(connection):
            transaction_ids.seal_token(connection)

    def contains(self, connection: Connection, table: CapturedTable, settings: TableSettings) -> bool:
        """Return whether triggers capture the table. Then listeners must leave the table alone.

        Raises ConfigurationError if the settings of the application and the database disagree.
        """
        there = table.full_name in self.names(connection)
        if there and settings.mode != "triggers":
            raise ConfigurationError(
                f"the table {table.full_name} is captured by triggers in the database, and this application's capture "
                "would write its changes a second time. Declare it with Table(info={'rowcast': 'triggers'}) or "
                f'mode = "triggers" in its settings, or drop the triggers: rowcast triggers drop {table.full_name}'
            )
        if settings.mode == "triggers" and not there:
            raise ConfigurationError(
                f"the table {table.full_name} should be captured by triggers but has none, so that its changes would "
                f"be lost. Install them: rowcast triggers install {table.full_name}. Or remove the mode "
                "\"triggers\" from its settings or its info['rowcast']."
            )
        return there
