"""Let deferred constraint triggers change their rows before the outbox is written, and not at COMMIT."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from rowcast.producer.database.dialects import capture_dialect
from rowcast.producer.database.raw_execution import execute_as_commit


class DeferredTriggers:
    """Know whether an engine's database has deferrable triggers, from the first question on.

    A trigger of any table counts, because it may change a row of a captured table.
    """

    def __init__(self) -> None:
        self._exist: bool | None = None

    def exist(self, connection: Connection) -> bool:
        """Return whether the database has deferred triggers. They may change a row until COMMIT."""
        if self._exist is None:
            self._exist = capture_dialect(connection.dialect).has_deferrable_triggers(connection)
        return self._exist

    def run(self, connection: Connection) -> None:
        """Run what is deferred, as COMMIT would do next. Raises the errors that COMMIT would raise."""
        if self.exist(connection):
            execute_as_commit(connection, capture_dialect(connection.dialect).run_deferred)
