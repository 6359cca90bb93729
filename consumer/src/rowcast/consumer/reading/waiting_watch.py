"""Warn of events with too long a wait for the END, because nothing else would show the events."""

from __future__ import annotations

import logging
import time

from rowcast.consumer.events.change import Change
from rowcast.consumer.events.position import message_target
from rowcast.consumer.reading.subscription import Subscription
from rowcast.consumer.reading.transaction_assembler import TransactionAssembler

_log = logging.getLogger("rowcast.worker")

_CHECK_INTERVAL_S = 1.0
# A relay may write the END of a large transaction long after its first event, but then further events arrive.
PATIENCE_S = 30.0


class WaitingWatch:
    """Watch the first event that waits for an END, while nothing else arrives for it."""

    def __init__(self, replica: str, subscription: Subscription, assembler: TransactionAssembler) -> None:
        self._replica = replica
        self._subscription = subscription
        self._assembler = assembler
        self._waiting: tuple[Change, int] | None = None
        self._since = time.monotonic()
        self._is_reported = False
        self._next_check = 0.0

    def look(self) -> None:
        """Warn once if the same events have waited for ``PATIENCE_S`` at the ends of all topics."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_INTERVAL_S
        event = self._assembler.waiting_event()
        waiting = None if event is None else (event, self._assembler.pending_events)
        if waiting != self._waiting or not all(s.at_end for s in self._subscription.streams.values()):
            self._waiting, self._since, self._is_reported = waiting, now, False
        elif event is not None and not self._is_reported and now - self._since > PATIENCE_S:
            self._is_reported = True
            _log.warning("%s", self._describe(event, now - self._since))

    def report_rest(self) -> None:
        """Warn of the events that are not applied because reading ends before their END."""
        if (event := self._assembler.waiting_event()) is not None and not self._is_reported:
            _log.warning("%s", self._describe(event, time.monotonic() - self._since))

    def _describe(self, event: Change, waited_s: float) -> str:
        if event.transaction is None:
            what = f"the event of {event.where()} with lsn {event.lsn}"
            awaited, target = "a BEGIN or END of a greater lsn", message_target(event.partition, event.offset)
        else:
            what = f"transaction {event.transaction}, which begins with {event.where()}, lsn {event.lsn},"
            awaited, target = "its END", event.transaction
        return (
            f"{what} has waited for {awaited} for {waited_s:.0f} s, and is not applied until then. Look at the relay. "
            f"If no relay has written it, leave it out: rowcast worker {self._replica} --skip {target}"
        )
