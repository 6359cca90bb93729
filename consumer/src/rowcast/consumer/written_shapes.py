"""The shapes that the capture has written down in the primary."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Engine

from rowcast.shared.errors import ConfigurationError
from rowcast.shared.shapes import TableShape


def written_shapes(primary: Engine) -> list[TableShape]:
    """The latest shape of every table, by name. Raises ConfigurationError if no capture's tables are there."""
    names = ("table_name", "version", "created_ms", "shape")
    written = sa.table("rowcast_shape", *map(sa.column, names))
    try:
        with primary.connect() as connection:
            rows = connection.execute(sa.select(written).order_by(written.c.created_ms, written.c.version)).all()
    except (exc.ProgrammingError, exc.OperationalError) as error:
        raise ConfigurationError(
            f"the primary database has no table rowcast_shape ({error.orig}): is the capture installed, and were its "
            "tables made? `rowcast check` says."
        ) from error
    latest = {row.table_name: TableShape.from_json(row.shape) for row in rows}
    return [latest[name] for name in sorted(latest)]
