"""Leave changes by Alembic's migrations out of the capture."""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

from sqlalchemy.engine import Connection

from rowcast.producer.capture.row_hints import IGNORE, ROWCAST_OPTION

_MODULE = "alembic.runtime.migration"


def leave_out_migrations() -> None:
    """Let the connection of a running migration carry the option ``rowcast="ignore"``.

    Call the function at each first connection of an engine, because a program may import Alembic late. A migration
    connects after its import.
    """
    module: Any = sys.modules.get(_MODULE)
    run = None if module is None else module.MigrationContext.run_migrations
    if run is None or hasattr(run, "__wrapped__"):
        return

    @wraps(run)
    def run_left_out(self: Any, **options: Any) -> None:
        connection = self.connection
        if not isinstance(connection, Connection):
            # Alembic needs no database with --sql.
            run(self, **options)
            return
        before = connection._execution_options
        connection.execution_options(**{ROWCAST_OPTION: IGNORE})
        try:
            run(self, **options)
        finally:
            connection._execution_options = before

    module.MigrationContext.run_migrations = run_left_out
