"""Handle the parked transactions of the relay for ``rowcast dlq --source``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rowcast.producer.parking.parked import ParkedTransactions
from rowcast.producer.parking.report import report_rows, report_transactions
from rowcast.shared.config.settings import Settings

_log = logging.getLogger("rowcast.dlq")


class ParkedQueue:
    """Handle parked transactions by id, as ``rowcast.shared.cli.dlq.DeadLetterQueue`` describes."""

    def __init__(self, parked: ParkedTransactions) -> None:
        self._parked = parked

    def print_list(self, ids: Sequence[str], *, as_json: bool) -> int:
        """Print the parked transactions with the reasons. Return 1 if there are any, else 0."""
        found = [one for one in self._parked.all() if not ids or one.tx in ids]
        return report_transactions(found, as_json=as_json)

    def print_whole(self, ids: Sequence[str], *, as_json: bool) -> None:
        """Print the changes of parked transactions as the capture wrote them."""
        rows = [row for tx in ids or self._all() for row in self._parked.rows(tx)]
        report_rows(rows, as_json=as_json)

    def retry(self, ids: Sequence[str]) -> int:
        """Publish the current state of the rows that parked transactions changed."""
        for one in ids:
            rows = self._parked.retry(one)
            _log.info("transaction %s: the current state of %d rows is in the outbox", one, rows, extra={"tx": one})
        return 0

    def drop(self, ids: Sequence[str]) -> None:
        """Delete parked transactions."""
        dropped = ids or self._all()
        self._parked.drop(dropped)
        _log.info("dropped: %s", ", ".join(dropped) or "nothing is parked")

    def _all(self) -> Sequence[str]:
        return [one.tx for one in self._parked.all()]


@contextmanager
def parked_queue(settings: Settings) -> Iterator[ParkedQueue]:
    """Open the parked transactions of the primary. See ``ParkedTransactions`` for the errors."""
    parked = ParkedTransactions(settings)
    try:
        yield ParkedQueue(parked)
    finally:
        parked.close()
