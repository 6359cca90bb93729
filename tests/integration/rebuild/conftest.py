"""Let an idle worker notice soon that a rebuild has taken the replica over."""

from __future__ import annotations

import pytest

from rowcast.consumer.worker import apply_loop


@pytest.fixture(autouse=True)
def short_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker without events compare its row often. Otherwise each swap waits five seconds for it."""
    monkeypatch.setattr(apply_loop, "_COMPARE_S", 0.2)
