"""Apply runs by transaction and by key, hold back what conflicts while the replica loads, and set bad rows aside."""

from __future__ import annotations

from functools import partial

from sqlalchemy.engine import Connection

from rowcast.consumer.events.transactions import Run
from rowcast.consumer.replica.applier import Applier
from rowcast.consumer.replica.bad_rows import BadRows
from rowcast.consumer.replica.held_back import HeldBack
from rowcast.consumer.replica.refusals import RefusedError


class RunWriter:
    """Write the runs of one replica. Raise as ``Applier.apply``."""

    def __init__(self, applier: Applier, bad_rows: BadRows) -> None:
        self._applier = applier
        self._bad_rows = bad_rows
        self._held_back = HeldBack()

    def apply(self, connection: Connection, run: Run) -> None:
        """Apply a run, and the changes held back if the run is the first after the load."""
        if run.transactions[0].by_key:
            self._apply_by_key(connection, run)
        else:
            self._bad_rows.apply(connection, self._held_back.before(run))
            self._held_back.clear()

    def write_held_back(self, connection: Connection) -> None:
        """Apply all changes held back, because the load ends and no later change can resolve a conflict."""
        if self._held_back:
            self._bad_rows.apply(connection, Run([self._held_back.merged()]))
            # Not before, because a lost connection must not lose the changes.
            self._held_back.clear()

    def forget(self) -> None:
        """Read the replica's bad rows again, because the rows may have changed."""
        self._bad_rows.forget()

    def _apply_by_key(self, connection: Connection, run: Run) -> None:
        apply = partial(self._applier.apply, connection, complete=False)
        hold_back = partial(self._held_back.apply, apply=apply, table_order=self._applier.table_order)
        try:
            self._bad_rows.apply_by_key(connection, run, hold_back)
        except RefusedError as error:
            # The refused value may be among the changes that were held back for a conflict of another row.
            if not self._held_back or not self._bad_rows.may_set_aside(error):
                raise
            self._held_back.replace(partial(self._bad_rows.without_refused_values, connection))
            self._bad_rows.apply_by_key(connection, run, hold_back)
