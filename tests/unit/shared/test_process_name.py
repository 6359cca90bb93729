"""Each process has a unique name that an operator can recognize."""

from __future__ import annotations

import os
import socket

import pytest

from rowcast.shared.process_name import MAX_LENGTH, new_process_name


def test_a_name_says_host_and_process() -> None:
    assert new_process_name().startswith(f"{socket.gethostname()}:{os.getpid()}:")


def test_no_two_names_are_equal() -> None:
    assert len({new_process_name() for _ in range(100)}) == 100


def test_a_long_host_name_keeps_the_part_that_is_unique(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * 300)
    name = new_process_name()
    assert len(name) == MAX_LENGTH
    assert f":{os.getpid()}:" in name
