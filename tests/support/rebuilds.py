"""Rebuild replicas in tests."""

from __future__ import annotations

import threading

from rowcast.consumer.rebuild.rebuild import RebuildOptions, RebuildResult, rebuild
from rowcast.shared.config.settings import Settings
from support.worker_runs import NAME


def rebuilt(settings: Settings, *, keep_old: bool = False, restart: bool = False) -> RebuildResult:
    """Rebuild without a comparison, because most tests publish rows without a primary."""
    options = RebuildOptions(keep_old=keep_old, restart=restart, is_verified=False)
    return rebuild(settings, NAME, options, stop=threading.Event())
