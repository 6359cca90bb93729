"""Python's settings belong to the whole process, so that tuning restores the previous values at the end."""

from __future__ import annotations

import gc
import sys

import pytest

from rowcast.shared.process_tuning import pause_collector, tune_interpreter


def test_settings_are_as_before_afterwards() -> None:
    before = gc.get_threshold(), sys.getswitchinterval()
    with tune_interpreter():
        assert gc.get_threshold()[0] > before[0][0]
        assert sys.getswitchinterval() < before[1]
    assert (gc.get_threshold(), sys.getswitchinterval()) == before


def test_blocks_that_end_in_the_order_of_their_beginnings_leave_no_setting_behind() -> None:
    before = gc.get_threshold(), sys.getswitchinterval()
    first, second = tune_interpreter(), tune_interpreter()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold()[0] > before[0][0]
    second.__exit__(None, None, None)
    assert (gc.get_threshold(), sys.getswitchinterval()) == before


def test_a_disabled_garbage_collector_stays_disabled() -> None:
    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        with tune_interpreter():
            assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_paused_collector_is_as_before_afterwards(enabled: bool) -> None:
    if not enabled:
        gc.disable()
    try:
        with pause_collector():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
