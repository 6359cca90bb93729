"""Rebuild replicas in tests."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rowcast.consumer.rebuild.options import RebuildOptions, RebuildResult
from rowcast.consumer.rebuild.rebuild import rebuild
from rowcast.shared.config.settings import Settings
from support.kafka_source import Source
from support.worker_runs import NAME


class Writer:
    """Publish transactions of a customer and an order, with a small pause after each."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stop = threading.Event()
        self.number = 0
        self._thread = threading.Thread(target=self._write, daemon=True)

    def write(self) -> None:
        self.number += 1
        n = self.number
        self._source.transaction(
            ("c", "customer", {"id": n, "email": f"{n}@example.com"}),
            ("c", "orders", {"id": n, "customer_id": n, "note": str(n), "amount": "1.00"}),
        )

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _write(self) -> None:
        while not self._stop.wait(0.05):
            self.write()


def rebuilt(
    settings: Settings,
    *,
    is_verified: bool = False,
    keep_old: bool = False,
    restart: bool = False,
    tables: Sequence[str] = (),
    processes: int | None = None,
) -> RebuildResult:
    """Rebuild the replica. Most tests publish rows without a primary, so there is nothing to compare."""
    options = RebuildOptions(
        keep_old=keep_old, restart=restart, is_verified=is_verified, tables=tables, processes=processes
    )
    return rebuild(settings, NAME, options, stop=threading.Event())
