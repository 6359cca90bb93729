"""Hold the claim to the fresh tables while processes fill them."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from rowcast.consumer.replica.connection import Replica
from rowcast.shared.errors import ConfigurationError, FencedError, RetriableError

_log = logging.getLogger("rowcast.rebuild")

_ATTEMPTS = 100
_POLL_S = 0.05


class ClaimedReplica:
    """Hold the claim to a replica during the block. ``command``: the command that fills the tables, for messages."""

    def __init__(self, replica: Replica, stop: threading.Event, command: str) -> None:
        self._replica = replica
        self._stop = stop
        self._command = command
        self._claim = replica.new_claim(lambda: True)

    def __enter__(self) -> ClaimedReplica:
        for _ in range(_ATTEMPTS):
            if self._replica.take(self._claim):
                return self
            self._stop.wait(_POLL_S)
        self.close()
        raise ConfigurationError(f"another process runs {self._command}. Wait for its end, or stop it and try again.")

    def keep(self) -> None:
        """Take the claim again if the server has ended the session. Raise FencedError if another process has it."""
        if self._claim.is_held:
            return
        try:
            if self._replica.take(self._claim):
                self._replica.compare()
                return
        except RetriableError as error:
            _log.debug("the claim to the fresh tables is lost: %s", error)
            return
        raise FencedError(f"another process has taken over the fresh tables. Run {self._command} again")

    def close(self) -> None:
        """Close the connection and give the claim up."""
        self._replica.close()
        self._claim.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
