"""Statements go one by one where the driver's library cannot send several at once."""

from __future__ import annotations

import importlib.util

import psycopg
import pytest

from rowcast.shared.database import pipelines


@pytest.mark.parametrize("is_supported", [True, False])
def test_a_libpq_without_a_pipeline_mode_is_never_asked_for_it(
    is_supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psycopg.Pipeline, "is_supported", lambda: is_supported)
    spec = importlib.util.spec_from_file_location("pipelines_again", pipelines.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again._available is is_supported
