"""Rename a table of the replica like the source.

The plan looks at the present tables, so that the next worker goes on after a kill between the statement and the record.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy.engine import Connection

from rowcast.consumer.replica.dialects import ReplicaDialect, TableName, for_people
from rowcast.consumer.replica.evolution.steps import Step, carry_out
from rowcast.consumer.replica.known_columns import KnownColumns
from rowcast.consumer.replica.table_definitions import replica_name
from rowcast.consumer.replica.table_records import TableRecord
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import TableShape


def recorded_former(
    shape: TableShape, renamed: Mapping[str, str], recorded: Mapping[str, TableRecord]
) -> str | None:  # fmt: skip
    """Return the former name used by the replica for the table, or None if the replica uses the present name.

    ``renamed``: the present name of each former name.
    """
    if shape.full_name in recorded:
        return None
    formers = [name for name, present in renamed.items() if present == shape.full_name and name in recorded]
    return formers[-1] if formers else None


def renaming(
    connection: Connection, replica: ReplicaDialect, columns: KnownColumns, former: TableShape, shape: TableShape
) -> Step | None:
    """Return the step to rename the table, or None if the table has the present name.

    Raise ConfigurationError if another table has the present name.
    """
    old, new = _name(former, replica), _name(shape, replica)
    if old == new or not columns.of(old):
        return None
    if replica.folds_table_names and (old[0], old[1].lower()) == (new[0], new[1].lower()):
        return None
    if columns.of(new):
        raise ConfigurationError(
            f"the source has renamed table {former.full_name} to {shape.full_name}, but the replica has a table "
            f"{new[1]} beside {old[1]}. Drop {new[1]} if it has nothing to keep, and start the worker again."
        )
    statements = tuple(replica.table_renaming(connection, old, new))
    return Step(shape, f"table {former.full_name} renamed to {shape.full_name}", statements)


def follow_renaming(
    connection: Connection, replica: ReplicaDialect, columns: KnownColumns, record: TableRecord, shape: TableShape, *,
    may_rename: bool,
) -> TableRecord:  # fmt: skip
    """Rename the table of a record, and return the record with the present name.

    Raise ConfigurationError with the statements if the table must be renamed and the worker may not.
    """
    step = renaming(connection, replica, columns, record.shape, shape)
    if step is not None:
        if not may_rename:
            raise _own_renaming(connection, step)
        carry_out(connection, replica, [step])
        columns.forget(_name(record.shape, replica))
        columns.forget(_name(shape, replica))
    return record.renamed(shape)


def _own_renaming(connection: Connection, step: Step) -> ConfigurationError:
    """Return the error for a table that the worker has not created, or may not change by ``evolution``."""
    statements = ";\n".join(for_people(connection, statement) for statement in step.statements)
    return ConfigurationError(
        f"{step.what} at the source, and the worker may not rename the replica's table. Run the statements, or rowcast "
        f"migrate REPLICA --apply, and start the worker again:\n{statements}"
    )


def _name(shape: TableShape, replica: ReplicaDialect) -> TableName:
    return replica_name(shape, replica)
