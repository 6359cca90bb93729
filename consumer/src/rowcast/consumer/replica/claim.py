"""Keep the claim to a replica while the worker moves. The holder of the claim is the active worker.

The claim decides which worker *may* work, and how soon a standby takes over. The epoch in ``positions`` keeps every
other worker from writing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import exc

from rowcast.consumer.replica.dialects.claims import ClaimSession
from rowcast.shared.database.driver_messages import first_line

_log = logging.getLogger("rowcast.worker")

_KEEPS_PER_LEASE = 5


class Claim:
    """Hold one claim. ``is_moving`` is called in another thread, about once a second: False gives the claim up."""

    def __init__(self, session: ClaimSession, lease_s: float, is_moving: Callable[[], bool]) -> None:
        self._session = session
        self._lease_s = lease_s
        self._is_moving = is_moving
        self._deadline = 0.0
        self._released = threading.Event()
        self._keeper: threading.Thread | None = None

    def take(self) -> bool:
        """Try to get the claim, without waiting. Return whether the worker has the claim. Raise the driver's errors."""
        if self.is_held:
            return True
        began = time.monotonic()
        try:
            if not self._session.take():
                return False
        except Exception:
            self._session.close()
            raise
        self._deadline = began + self._lease_s
        self._keeper = threading.Thread(target=self._keep, name="rowcast-claim", daemon=True)
        self._keeper.start()
        return True

    @property
    def is_held(self) -> bool:
        """Return whether this worker has the claim. After the length of a lease without an answer, return False."""
        return time.monotonic() < self._deadline

    def release(self) -> None:
        """Give the claim up. A standby takes over at once."""
        self._deadline = 0.0
        self._released.set()
        self._session.close()
        if self._keeper is not None:
            self._keeper.join()
            self._keeper = None

    def _keep(self) -> None:
        reason = ""
        while not self._released.wait(self._lease_s / _KEEPS_PER_LEASE):
            if not self._is_moving():
                reason = "the work does not move"
                break
            began = time.monotonic()
            try:
                if not self._session.keep():
                    reason = "the server has ended it"
                    break
            except exc.DBAPIError as error:
                reason = first_line(error)
                break
            except Exception as error:
                # ``release`` closed the session during the statement, and a driver may raise any error then.
                if isinstance(error, exc.SQLAlchemyError) or self._released.is_set():
                    break
                raise
            self._deadline = began + self._lease_s
        self._deadline = 0.0
        self._session.close()
        if not self._released.is_set():
            _log.warning("the claim to the replica is lost, so that another worker may take over: %s", reason)
