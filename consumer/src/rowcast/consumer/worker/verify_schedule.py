"""Compare the replica with the primary from time to time, beside the work of the active worker."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from rowcast.consumer.replica.positions import Verified
from rowcast.consumer.verification.results import VerifyStoppedError
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError, RowcastError
from rowcast.shared.tracebacks import format_error

_log = logging.getLogger("rowcast.verify")


def require_primary(settings: Settings, replica: str) -> None:
    """Raise ConfigurationError if the worker is to compare the replica and does not know the primary."""
    if settings.replica(replica).verify_every is not None and settings.primary is None:
        raise ConfigurationError(
            f"verify_every in [replicas.{replica}] needs the primary: set url in [primary], or leave verify_every out."
        )


class VerifySchedule:
    """Compare in a thread until the block ends.

    ``last``: the last comparison, the start of the first interval.
    """

    def __init__(self, settings: Settings, replica: str, last: Verified | None) -> None:
        self._settings = settings
        self._replica = replica
        options = settings.replica(replica)
        self._every_s = options.verify_every
        self._max_rate = options.verify_max_rate
        self._last_s = 0.0 if last is None else last.at_ms / 1000
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._every_s is not None:
            run = contextvars.copy_context().run
            self._thread = threading.Thread(
                target=run, args=(self._run, self._every_s), name="rowcast-verify-schedule", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, every_s: float) -> None:
        # A clock that was set back must not delay a comparison by more than the interval.
        pause = min(max(0.0, self._last_s + every_s - time.time()), every_s)
        while not self._stop.wait(pause):
            try:
                self._compare()
            except VerifyStoppedError:
                return
            except (RowcastError, SQLAlchemyError) as error:
                _log.warning("the scheduled comparison failed: %s", format_error(error))
            pause = every_s

    def _compare(self) -> None:
        # Most workers compare nothing, and a start must not wait for these modules.
        from rowcast.consumer.verification.comparison import verify
        from rowcast.consumer.verification.recording import record_result
        from rowcast.consumer.verification.report import summary

        result = verify(self._settings, self._replica, max_rate=self._max_rate, stop=self._stop)
        level = logging.INFO if result.equal else logging.WARNING
        _log.log(level, "replica %r: %s", self._replica, summary(result))
        if (reason := record_result(self._settings, self._replica, result)) is not None:
            _log.warning("the result of the comparison could not be stored in the replica: %s", reason)
