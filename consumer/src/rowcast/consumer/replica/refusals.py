"""Turn the errors of drivers into errors that say whether a row, the replica, or the moment is at fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import message_target
from rowcast.consumer.events.transactions import Transaction
from rowcast.consumer.replica.dialects import Fault, OrphanError, ReplicaDialect
from rowcast.shared.database.driver_errors import is_row_fault
from rowcast.shared.errors import DataError, RetriableError
from rowcast.shared.row_values import value_error


class RefusedError(DataError):
    """The replica refuses changes. ``transaction``: the transaction, if the changes belong to a single one.

    Everything before the transaction has been applied then.
    """

    transaction: Transaction | None = None


class ConflictError(RefusedError):
    """A constraint of the replica refuses these changes, in every order."""


class ValueRefusedError(RefusedError):
    """The table or the engine cannot hold a value."""


class StatementRefusedError(ValueRefusedError):
    """The table, a right or the server is at fault, whatever the values are."""


@contextmanager
def translated_errors(replica: ReplicaDialect, change: Change | None = None) -> Iterator[None]:
    """Raise RefusedError or RetriableError for errors of the database. ``change``: the event to name, if known."""
    try:
        yield
    except exc.DBAPIError as error:
        raise _named(change, _to_rowcast_error(replica, error)) from error
    except OrphanError as error:
        conflict = ConflictError(f"a constraint of the replica refuses the change: {error}")
        raise _named(change, conflict) from error
    except (ValueError, OverflowError) as error:
        raise _named(change, ValueRefusedError(value_error(error))) from error


@contextmanager
def refusals_of(transaction: Transaction) -> Iterator[None]:
    """Note the transaction in a refusal."""
    try:
        yield
    except RefusedError as error:
        error.transaction = transaction
        raise


def _to_rowcast_error(replica: ReplicaDialect, error: exc.DBAPIError) -> DataError | RetriableError:
    reason = replica.reason(error)
    match replica.classify(error):
        case Fault.LOST | Fault.TRANSIENT:
            return RetriableError(f"the replica did not apply a batch: {reason}")
        case Fault.CONFLICT:
            return ConflictError(f"a constraint of the replica refuses the change: {reason}")
        case Fault.DATA if is_row_fault(error):
            return ValueRefusedError(f"the replica refuses a value: {reason}")
        case Fault.DATA:
            return StatementRefusedError(f"the replica refuses a value: {reason}")


def _named(change: Change | None, error: DataError | RetriableError) -> DataError | RetriableError:
    """Return the error with the place of the event."""
    if change is None or not isinstance(error, DataError):
        return error
    named = type(error)(f"{change.where()}: {error}")
    named.skip = message_target(change.partition, change.offset)
    return named
