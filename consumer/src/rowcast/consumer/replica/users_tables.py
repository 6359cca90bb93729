"""Tables from before the worker: the tables belong to the user, and are used unchanged."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rowcast.consumer.replica.dialects import TableName
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import TableShape


def require_fitting(connection: Connection, table: TableName, columns: Collection[str], shape: TableShape) -> None:
    """Raise ConfigurationError unless the user's table has every column and the same primary key."""
    schema, name = table
    if missing := {column.name for column in shape.columns}.difference(columns):
        raise ConfigurationError(
            f"the replica's table {name} has no column {', '.join(sorted(missing))}, but the source's table "
            f"{shape.full_name} has. Add the column, or drop the table so that the worker creates it."
        )
    key = sa.inspect(connection).get_pk_constraint(name, schema)["constrained_columns"]
    if set(key) != set(shape.primary_key):
        raise ConfigurationError(
            f"the primary key of the replica's table {name} is ({', '.join(key)}), but that of {shape.full_name} "
            f"is ({', '.join(shape.primary_key)}). Change it, or drop the table so that the worker creates it."
        )
