"""Keep the shop open in a thread, while the demo does everything else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rowcast.producer.demo.tally import Tally
from rowcast.producer.demo.traffic import Shop

_TRANSACTIONS_PER_S = 150
_CALM_TRANSACTIONS_PER_S = 40
"""After the planned time. Relay, worker, verify and rebuild share the machine with the shop."""


class OpenShop:
    """Run transactions at an even pace, fewer on a slow machine.

    The shop does not wait for relay and worker. Both need seconds to start, and the first rows wait in the outbox.
    """

    def __init__(self, shop: Shop, tally: Tally) -> None:
        self._shop = shop
        self._tally = tally
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._trade, name="rowcast-demo-shop", daemon=True)
        self._error: BaseException | None = None

    @contextmanager
    def trading(self) -> Iterator[None]:
        """Open the shop until the end of the block, or until ``close``."""
        self._tally.rows += self._shop.open()
        self._thread.start()
        try:
            yield
        finally:
            self._closing.set()
            self._thread.join()

    def close(self) -> None:
        """Close the shop after the current transaction. Raise the error that closed the shop before."""
        self._closing.set()
        self._thread.join()
        self.require_open()

    def require_open(self) -> None:
        """Raise the error of a failed transaction."""
        if self._error is not None:
            raise self._error

    def _trade(self) -> None:
        tally = self._tally
        opened = time.monotonic()
        try:
            for rows in self._shop.trade():
                tally.rows += rows
                tally.transactions += 1
                tally.traded_s = time.monotonic() - opened
                if self._closing.wait(self._pause(tally.traded_s)):
                    return
        except Exception as error:  # noqa: BLE001  # The main thread raises it.
            self._error = error

    def _pause(self, traded_s: float) -> float:
        """Return the seconds until the next transaction is due."""
        planned_s = self._tally.planned_s
        if traded_s < planned_s:
            return max(0.0, self._tally.transactions / _TRANSACTIONS_PER_S - traded_s)
        return 1 / _CALM_TRANSACTIONS_PER_S
