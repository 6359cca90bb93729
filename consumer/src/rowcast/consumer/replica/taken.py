"""Keep the workers of a replica away while a command changes the tables."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rowcast.consumer.events.row_layout import RowLayouts
from rowcast.consumer.replica.connection import Replica
from rowcast.consumer.replica.promoted import PromotedError
from rowcast.shared.backoff import Backoff
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import RetriableError, SuspectError

_log = logging.getLogger("rowcast.replica")

_TAKE_POLL_S = 0.05
_FENCE_S = 1.0
_TAKE_TIMEOUT_S = 60.0


@contextmanager
def taken_replica(
    settings: Settings, name: str, layouts: RowLayouts, stop: threading.Event, command: str
) -> Iterator[Replica]:
    """Take a replica over from the workers. The workers stand by until the end of the block.

    ``layouts``: the shapes of the tables, for the caller to read during the block. ``command``: what to run again after
    an error.

    The active worker has finished the transaction, so the replica does not change. Raise RetriableError if no worker
    gives up the claim, or if the command is stopped.
    """
    replica = Replica(settings.source, name, settings.replica(name), layouts)
    claim = replica.new_claim(lambda: True)
    try:
        began, fence_at = time.monotonic(), 0.0
        while not replica.take(claim):
            if stop.is_set() or time.monotonic() - began > _TAKE_TIMEOUT_S:
                raise RetriableError(
                    f"the active worker of replica {name!r} does not give its claim up. Stop its workers, and run "
                    f"{command} again"
                )
            if time.monotonic() >= fence_at:
                # The active worker notices the loss with the next transaction, and at the latest after five seconds.
                _fence(replica)
                fence_at = time.monotonic() + _FENCE_S
            time.sleep(_TAKE_POLL_S)
        _fence(replica)
        _log.info("the workers of replica %r stand by", name)
        yield replica
    finally:
        replica.close()
        claim.release()


def restore_foreign_keys(replica: Replica, stop: threading.Event) -> None:
    """Create the foreign keys that the swap has dropped between rebuilt tables and other tables.

    Try again while readers hold the tables, until ``stop`` is set. After a stop or a kill, the next worker creates the
    foreign keys.
    """
    backoff = Backoff(0.2, 10.0)
    while True:
        try:
            replica.take_over()
            replica.prepare()
            return
        except RetriableError as error:
            _log.info("the foreign keys of the rebuilt tables are not created yet: %s", error)
            if stop.wait(backoff.next_pause()):
                return


def _fence(replica: Replica) -> None:
    try:
        replica.take_over()
    except SuspectError as error:
        _log.info("the replica is suspect: %s", error)
    except PromotedError as error:
        # A promotion goes on. Every other command looks at the state before.
        _log.debug("%s", error)
