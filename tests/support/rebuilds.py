"""Rebuild replicas in tests."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rowcast.consumer.rebuild.options import RebuildOptions, RebuildResult
from rowcast.consumer.rebuild.rebuild import rebuild
from rowcast.shared.config.settings import Settings
from support.worker_runs import NAME


def rebuilt(
    settings: Settings,
    *,
    is_verified: bool = False,
    keep_old: bool = False,
    restart: bool = False,
    tables: Sequence[str] = (),
) -> RebuildResult:
    """Rebuild the replica. Most tests publish rows without a primary, so there is nothing to compare."""
    options = RebuildOptions(keep_old=keep_old, restart=restart, is_verified=is_verified, tables=tables)
    return rebuild(settings, NAME, options, stop=threading.Event())
