"""Let an idle worker notice soon that a rebuild has taken the replica over."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _short_comparisons(short_comparisons: None) -> None:
    pass
