"""What a leader publishes next: selected, read, looked at for what cannot be published, and claimed."""

from __future__ import annotations

from collections.abc import Callable, Collection

from rowcast.producer.relay.batches import BatchRow, UnpublishableError, left_unfinished, lsn_count
from rowcast.producer.relay.claims import Claim, Claims
from rowcast.producer.relay.ends import Ends
from rowcast.producer.relay.reading import Outbox
from rowcast.producer.relay.rows import Rows
from rowcast.producer.relay.selection import Limits, Selection, select_next
from rowcast.producer.relay.unfinished import Unfinished
from rowcast.shared.errors import DataError, RetriableError


class Upcoming:
    """One leader's. ``commit`` has Kafka commit all that is sent, ``keep_lease`` is called now and then; ``parks``:
    whether a transaction that cannot be published is to be parked."""

    def __init__(
        self,
        rows: Rows,
        claims: Claims,
        limits: Limits,
        commit: Callable[[], None],
        keep_lease: Callable[[], None],
        *,
        parks: bool,
    ) -> None:
        self._rows = rows
        self._claims = claims
        self._limits = limits
        self._commit = commit
        self._keep_lease = keep_lease
        self._parks = parks
        self._ends = Ends()
        self.more = False
        """Whether more was waiting than the last claim took."""

    def claim(self, outbox: Outbox, claimed: Collection[int]) -> tuple[Claim, list[BatchRow]] | None:
        """Claims the next rows but those that are ``claimed``; None if there are none.

        Raises UnpublishableError if the next transaction cannot be published, FencedError if another relay has taken
        over.
        """
        claims = self._claims
        selection = select_next(outbox, self._ends, claimed, claims.unfinished, self._limits)
        self.more = selection.more
        try:
            rows = self._publishable(selection)
            if self._parks and claims.unfinished is None and selection.end_id is not None:
                self._look_through(outbox, selection)
        except UnpublishableError as error:
            selection, self.more = selection.before(error.tx), True
            if not selection.heads:
                raise
            rows = self._publishable(selection)
        if not rows:
            return None
        carried = claims.unfinished
        lsns = lsn_count(rows, carried, selection.end_id is not None)
        ids = [row.id for row in rows]
        claim = claims.record(ids, lsns, left_unfinished(rows, carried, selection.end_id))
        self._ends.forget(row.tx for row in rows)
        return claim, rows

    def claimed_before(self, claim: Claim) -> list[BatchRow]:
        """The rows of a claim that is recorded. Raises DataError if they cannot be published, or are gone."""
        try:
            rows = self._rows.read(claim.outbox_ids)
        except UnpublishableError as error:
            raise error.when_begun() from error
        if len(rows) < len(claim.outbox_ids):
            # Unless it is because another relay has taken over.
            self._claims.renew()
            raise DataError(
                f"the claim of lsn {claim.first_lsn} to {claim.last_lsn} in rowcast_claim names outbox rows that are "
                "gone. Restore them, or delete the claim's row: the replicas will lack its changes."
            )
        lsns = lsn_count(rows, claim.carried, claim.unfinished is not None)
        if rows and lsns != claim.last_lsn - claim.first_lsn + 1:
            raise DataError(
                f"the outbox rows {claim.outbox_ids[0]} to {claim.outbox_ids[-1]} have other changes than when they "
                f"were claimed: they take {lsns} lsns, and were given {claim.first_lsn} to {claim.last_lsn}, under "
                "which some may have been published. Restore them."
            )
        return rows

    def _publishable(self, selection: Selection) -> list[BatchRow]:
        """The selected rows. Raises UnpublishableError if one cannot be published."""
        ids = [head.id for head in selection.heads]
        rows = self._rows.read(ids, selection.heads) if ids else []
        if len(rows) < len(ids):
            raise RetriableError("outbox rows have gone between two looks at them: looking again")
        self._rows.check_sizes(rows, selection.heads, self._claims.lease.next_lsn)
        return rows

    def _look_through(self, outbox: Outbox, selection: Selection) -> None:
        """What is claimed of a transaction cannot be parked any more. So before the first part of one that is larger
        than a claim is claimed, the others are read, too. Raises as ``_publishable``."""
        # It may take long, and a Kafka transaction has its time.
        self._commit()
        while selection.end_id is not None:
            last = selection.heads[-1]
            rest = Unfinished(last.tx, last.id, selection.end_id)
            selection = select_next(outbox, self._ends, (), rest, self._limits)
            self._publishable(selection)
            self._keep_lease()
