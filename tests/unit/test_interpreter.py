"""Python's settings are the process's: whoever tunes them puts them back."""

from __future__ import annotations

import gc
import sys

from rowcast.shared.interpreter import tuned_interpreter


def test_settings_are_as_before_afterwards() -> None:
    before = gc.get_threshold(), sys.getswitchinterval()
    with tuned_interpreter():
        assert gc.get_threshold()[0] > before[0][0]
        assert sys.getswitchinterval() < before[1]
    assert (gc.get_threshold(), sys.getswitchinterval()) == before


def test_what_somebody_switched_off_stays_off() -> None:
    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        with tuned_interpreter():
            assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)
