"""A step changes an existing table of the replica."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import exc
from sqlalchemy.engine import Connection

from rowcast.consumer.replica.dialects import Fault, ReplicaDialect, for_people
from rowcast.consumer.replica.table_definitions import table_limits_named
from rowcast.shared.errors import ConfigurationError
from rowcast.shared.tables.shape import TableShape

_log = logging.getLogger("rowcast.worker")


@dataclass(frozen=True, slots=True)
class Step:
    """A change of the replica's table for a shape.

    ``what``: the change in words. ``statements``: ready for the driver. ``refusal``: returns the error for a refused
    statement, from the server's reason.
    """

    shape: TableShape
    what: str
    statements: tuple[str, ...]
    refusal: Callable[[str], ConfigurationError] | None = None

    def error(self, connection: Connection, reason: str) -> ConfigurationError:
        """Return the error for a refused statement."""
        if self.refusal is not None:
            return self.refusal(reason)
        statements = ", then ".join(for_people(connection, statement) for statement in self.statements)
        return ConfigurationError(
            f"table {self.shape.full_name}: {self.what}, but the database refused: {reason}. Remove the cause, and "
            f"start the worker again. The statements: {statements}"
        )


def statements_of(connection: Connection, steps: Iterable[Step]) -> list[str]:
    """Return the statements of steps not carried out, each once, in SQL for a person."""
    found = dict.fromkeys(statement for step in steps for statement in step.statements)
    return [for_people(connection, statement) for statement in found]


def require_no_steps(connection: Connection, steps: Iterable[Step]) -> None:
    """Raise ConfigurationError with the statements if there are steps, for ``evolution = "validate"``."""
    require_no_statements(statements_of(connection, steps))


def require_no_statements(statements: Sequence[str]) -> None:
    """Raise ConfigurationError with the statements, if there are any, for ``evolution = "validate"``."""
    if statements:
        script = ";\n".join(statements)
        raise ConfigurationError(
            "the replica's tables are not as the source has them now, and no worker may change them "
            '(evolution = "validate"). Run the statements, or rowcast migrate REPLICA --apply, and start the worker '
            f"again:\n{script}"
        )


def carry_out(connection: Connection, replica: ReplicaDialect, steps: Iterable[Step]) -> set[str]:
    """Execute the steps in the caller's transaction. Return ``schema.table`` of the changed tables.

    Raise ConfigurationError for a refused statement.

    The driver's error of a lock that readers hold for too long passes through.
    """
    changed = set()
    for step in steps:
        try:
            with table_limits_named(step.shape, replica), replica.bounded_lock_waits(connection):
                for statement in step.statements:
                    connection.exec_driver_sql(statement)
        except exc.DBAPIError as error:
            if replica.classify(error) in (Fault.LOST, Fault.TRANSIENT):
                raise
            raise step.error(connection, replica.reason(error)) from error
        changed.add(step.shape.full_name)
        _log.info("table %s: %s", step.shape.full_name, step.what)
    return changed
