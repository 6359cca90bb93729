"""Publish all rows of tables again for ``rowcast rebuild --snapshot``, through the group ``rowcast.snapshots``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from rowcast.producer.cli.commands import CHUNK_ROWS
from rowcast.producer.cli.snapshot_client import SnapshotClient
from rowcast.producer.outbox.snapshot_requests import SnapshotState
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import DataError


def publish_all_rows(
    settings: Settings, tables: Sequence[str], stop: threading.Event, on_rows: Callable[[int], None]
) -> int:
    """Request snapshots of the tables, and wait until Kafka has them. Return the first lsn from which on they are.

    Every row of the tables is in an event of this lsn or a later one, so earlier events can be left out. ``on_rows`` is
    called with the number of published rows. Raise DataError if a snapshot has failed.
    """
    client = SnapshotClient(settings)
    try:
        first_lsn = client.next_lsn()
        ids = client.request(tables, None, CHUNK_ROWS)
        found = client.wait(ids, stop, lambda progress: on_rows(progress.rows))
    finally:
        client.close()
    for snapshot in found:
        if snapshot.state is not SnapshotState.done and not stop.is_set():
            reason = snapshot.reason or f"it is {snapshot.state}"
            raise DataError(f"the snapshot of table {snapshot.table} is not complete: {reason}")
    return first_lsn
