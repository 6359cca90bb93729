"""Make the next claim: select, read and check outbox rows, and record the claim."""

from __future__ import annotations

from collections.abc import Callable, Collection

from rowcast.producer.relay.claims.claim_table import Claim, Claims
from rowcast.producer.relay.claims.epoch import Epoch
from rowcast.producer.relay.claims.outbox_reader import ROWS_GONE, OutboxReader
from rowcast.producer.relay.claims.partial_transaction import PartialTransaction
from rowcast.producer.relay.claims.selection import Limits, Selection, select_next
from rowcast.producer.relay.claims.transaction_ends import TransactionEnds
from rowcast.producer.relay.leader.row_loader import RowLoader
from rowcast.producer.relay.messages.batch_rows import ParsedRow, UnpublishableError, lsn_count, partial_after
from rowcast.shared.errors import DataError, RetriableError

CLAIM_BYTES = 8 * 1024 * 1024
"""A claim takes at most this size, or a single row, because all its rows are in memory at once."""


class NextClaim:
    """Make the claims of one leader.

    ``commit``: wait until Kafka has committed all messages. ``more``: whether further rows waited when the
    last claim was made.
    """

    def __init__(self, epoch: Epoch, rows: RowLoader, claims: Claims, commit: Callable[[], None]) -> None:
        self._rows = rows
        self._claims = claims
        self._limits = Limits(epoch.relay_settings.claim_rows, CLAIM_BYTES)
        self._commit = commit
        self._heartbeat = epoch.heartbeat
        self._parks = epoch.relay_settings.on_unpublishable == "park"
        self._ends = TransactionEnds()
        self.more = False

    def claim(self, outbox: OutboxReader, claimed: Collection[int]) -> tuple[Claim, list[ParsedRow]] | None:
        """Claim the next rows. Returns None if no rows wait. ``claimed``: ids of rows to skip.

        Raises UnpublishableError if the next transaction cannot be published, FencedError if another relay has taken
        over.
        """
        claims = self._claims
        selection = select_next(outbox, self._ends, claimed, claims.partial, self._limits)
        self.more = selection.more
        try:
            rows = self._load_publishable(selection)
            if self._parks and claims.partial is None and selection.end_id is not None:
                self._check_rest(outbox, selection)
        except UnpublishableError as error:
            selection, self.more = selection.before_transaction(error.tx), True
            if not selection.heads:
                raise
            rows = self._load_publishable(selection)
        if not rows:
            return None
        carried_in = claims.partial
        lsns = lsn_count(rows, carried_in, selection.end_id is not None)
        ids = [row.id for row in rows]
        claim = claims.record(ids, lsns, partial_after(rows, carried_in, selection.end_id))
        self._ends.drop(row.tx for row in rows)
        return claim, rows

    def load_claimed(self, claim: Claim) -> list[ParsedRow]:
        """Return the rows of a recorded claim.

        Raises DataError if they are missing, have changed, or cannot be published.
        """
        try:
            rows = self._rows.read(claim.outbox_ids)
        except UnpublishableError as error:
            raise error.after_partial_claim() from error
        if len(rows) < len(claim.outbox_ids):
            # A successor may have published and deleted the rows. In this case the renewal raises FencedError.
            self._claims.renew()
            raise DataError(
                f"the outbox rows of the claim of lsn {claim.first_lsn} to {claim.last_lsn} in rowcast_claim are "
                "missing. Restore the rows, or delete the row of the claim: the replicas will then lack its changes."
            )
        lsns = lsn_count(rows, claim.carried_in, claim.carried_out is not None)
        if rows and lsns != claim.last_lsn - claim.first_lsn + 1:
            raise DataError(
                f"the outbox rows {claim.outbox_ids[0]} to {claim.outbox_ids[-1]} have changed since they were "
                f"claimed: they take {lsns} lsns, and the claim has the lsns {claim.first_lsn} to {claim.last_lsn}. "
                "Some of their events may be published. Restore the rows."
            )
        return rows

    def _load_publishable(self, selection: Selection) -> list[ParsedRow]:
        """Return the selected rows. Raises UnpublishableError for a row that cannot be published."""
        ids = [head.id for head in selection.heads]
        rows = self._rows.read(ids, selection.heads) if ids else []
        if len(rows) < len(ids):
            raise RetriableError(ROWS_GONE)
        self._rows.check_sizes(rows, selection.heads, self._claims.lease.next_lsn)
        return rows

    def _check_rest(self, outbox: OutboxReader, selection: Selection) -> None:
        """Check the rest of a transaction larger than a claim, before the claim of the first part.

        After the claim the transaction cannot be parked any more. Raises as ``_load_publishable``.
        """
        # The check may take long, and an open Kafka transaction has a timeout.
        self._commit()
        while selection.end_id is not None:
            last = selection.heads[-1]
            rest = PartialTransaction(last.tx, last.id, selection.end_id)
            selection = select_next(outbox, self._ends, (), rest, self._limits)
            self._load_publishable(selection)
            self._heartbeat.renew_lease()
