"""Check the former names of a renamed table."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import TableShape


def require_free(shape: TableShape, find: Callable[[str, str], sa.Table | None]) -> None:
    """Raise ConfigurationError if a former name of the table is the name of another table now.

    ``find``: returns the table of the metadata with this schema and name. Replicas could not know to which of the two
    tables an event belongs.
    """
    for former in shape.was:
        if former != shape.full_name and find(*former.split(".", 1)) is not None:
            raise ConfigurationError(
                f"`was` of table {shape.full_name} names {former}, which is another table of the metadata now. Remove "
                f"this name from `was`, and run `rowcast rebuild REPLICA --snapshot` after the migration."
            )
