"""Hold the claim to the fresh tables while processes fill the tables."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.rebuild.first_pass.target import FreshTarget
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.part import Part
from rowcast.shared.errors import ConfigurationError, FencedError, RetriableError

_log = logging.getLogger("rowcast.rebuild")

_ATTEMPTS = 100
_POLL_S = 0.05


class ClaimedReplica:
    """Hold the claim to the fresh tables during the block. ``layouts``: where the caller reads the shapes."""

    def __init__(self, target: FreshTarget, layouts: RowLayouts, stop: threading.Event) -> None:
        self._command = target.command
        self._stop = stop
        options, part = target.settings.replica(target.replica), Part(target.source)
        self.replica = Replica(target.source, target.replica, options, layouts, target.naming, part)
        self._claim = self.replica.new_claim(lambda: True)

    def __enter__(self) -> ClaimedReplica:
        for _ in range(_ATTEMPTS):
            if self.replica.take(self._claim):
                return self
            self._stop.wait(_POLL_S)
        self._close()
        raise ConfigurationError(f"another process runs {self._command}. Wait for its end, or stop it and try again.")

    def keep(self) -> None:
        """Take the claim again after the server has ended the session. Raise FencedError if the claim is taken."""
        if self._claim.is_held:
            return
        try:
            if self.replica.take(self._claim):
                self.replica.compare()
                return
        except RetriableError as error:
            _log.debug("the claim to the fresh tables is lost: %s", error)
            return
        raise FencedError(f"another process has taken over the fresh tables. Run {self._command} again")

    def _close(self) -> None:
        self.replica.close()
        self._claim.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()
