"""Read the sum of all gift cards on the replica all the time. Half a transaction would have another sum."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Engine

from rowcast.producer.demo.models import Account
from rowcast.producer.demo.tally import Tally
from rowcast.producer.demo.traffic import BANK_SUM
from rowcast.shared.database.driver_messages import first_line

_log = logging.getLogger("rowcast.demo")

_PAUSE_S = 0.02

_SUM = sa.select(sa.func.sum(Account.balance))


class BankWatch:
    """Read the replica in a thread while it is consistent, and settle the promise of the bank."""

    def __init__(self, replica: Engine, tally: Tally) -> None:
        self._replica = replica
        self._tally = tally
        self._wrong: set[object] = set()
        self._error = ""
        self._stop = threading.Event()
        self._is_readable = False
        self._turn = threading.Lock()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read until the end of the block. The reads begin with ``begin``."""
        thread = threading.Thread(target=self._read_until_stop, name="rowcast-demo-bank", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def begin(self) -> None:
        """Read from now on, because the replica is consistent and has the first gift card."""
        with self._turn:
            self._is_readable = True

    def pause(self) -> None:
        """Read no more, because the replica is going to be deleted. Return after the current read."""
        with self._turn:
            self._is_readable = False
            self._replica.dispose()

    def settle(self) -> None:
        """Say whether every read had the right sum."""
        reads = f"{self._tally.reads:,} times"
        promise = self._tally.promises.bank
        if self._error:
            promise.settle(f"{reads}, and a read failed: {self._error}", kept=False)
        elif self._wrong:
            promise.settle(
                f"{reads}, with {len(self._wrong):,} wrong sums, such as {min(map(str, self._wrong))}", kept=False
            )
        else:
            result = f"{reads}, the gift cards always had the sum {BANK_SUM // 100:,}.00"
            promise.settle(result, kept=self._tally.reads > 0)

    def _read_until_stop(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            with self._turn:
                if self._is_readable:
                    self._read()

    def _read(self) -> None:
        try:
            with self._replica.connect() as connection:
                found = connection.scalar(_SUM)
        except exc.DBAPIError as error:
            self._error = first_line(error)
            _log.warning("the replica cannot be read: %s", self._error)
            self._is_readable = False
            return
        self._tally.reads += 1
        # Some drivers return a sum of integers as a decimal number.
        if found is None or int(found) != BANK_SUM:
            self._wrong.add(found)
