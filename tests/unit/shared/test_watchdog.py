"""A loop that does not go round is logged with its place, and ends the process unless something works for it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from rowcast.shared import vitals as vitals_module
from rowcast.shared.config.relay_settings import WatchdogSettings
from rowcast.shared.database.sessions import SessionState
from rowcast.shared.database.silence import SilenceWatch
from rowcast.shared.vitals import Pulse, Vitals
from rowcast.shared.watchdog import Watchdog

SETTINGS = WatchdogSettings(stuck_after_s=30, exit_after_s=120)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = staticmethod(time.time)


class Silence(SilenceWatch):
    """Report a chosen state of the database's session."""

    state: SessionState | None = None

    def state_of(self, thread: int) -> SessionState | None:
        return self.state


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(vitals_module, "time", clock)
    return clock


@pytest.fixture
def vitals() -> Vitals:
    return Vitals("the worker of replica 'copy'")


@pytest.fixture
def stuck(vitals: Vitals, clock: Clock) -> Iterator[Pulse]:
    """Yield the pulse of a thread that waits for an event."""
    waits, ends, pulses = threading.Event(), threading.Event(), []

    def wait_where_nothing_moves() -> None:
        with vitals.pulse("applying") as pulse:
            pulses.append(pulse)
            waits.set()
            ends.wait()

    thread = threading.Thread(target=wait_where_nothing_moves)
    thread.start()
    waits.wait()
    yield pulses[0]
    ends.set()
    thread.join()


def test_a_stuck_loop_is_logged_with_its_place_and_ends_the_process(
    vitals: Vitals, stuck: Pulse, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[bool] = []
    dog = Watchdog(vitals, SETTINGS, Silence(), lambda: ends.append(True))
    clock.now += 29
    dog.tick()
    assert not caplog.records
    assert dog.stuck_pulse() is None
    clock.now += 2
    dog.tick()
    dog.tick()
    (record,) = caplog.records
    assert "the worker of replica 'copy' has not moved for 31 s (applying)" in record.getMessage()
    assert "wait_where_nothing_moves" in record.getMessage()
    assert dog.stuck_pulse() is stuck
    clock.now += 90
    dog.tick()
    dog.tick()
    assert ends == [True]
    assert "exit code 4" in caplog.records[1].getMessage()


def test_a_loop_that_goes_round_again_is_not_stuck(
    vitals: Vitals, stuck: Pulse, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    dog = Watchdog(vitals, SETTINGS, Silence(), pytest.fail)
    for _ in range(10):
        clock.now += 20
        dog.tick()
        stuck.beat()
    assert not caplog.records


def test_a_loop_whose_statement_runs_is_logged_and_left_to_go_on(
    vitals: Vitals, stuck: Pulse, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    silence = Silence()
    silence.state = SessionState.WORKING
    dog = Watchdog(vitals, SETTINGS, silence, pytest.fail)
    for _ in range(100):
        clock.now += 10
        dog.tick()
    assert dog.stuck_pulse() is None
    assert 30 <= len(caplog.records) <= 34
    assert "The database works on its statement" in caplog.text


def test_an_application_is_never_ended(
    vitals: Vitals, stuck: Pulse, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    dog = Watchdog(vitals, SETTINGS, Silence(), None)
    for _ in range(30):
        clock.now += 10
        dog.tick()
    assert "The application's process goes on" in caplog.text


def test_time_in_which_the_whole_process_stood_still_does_not_count(
    vitals: Vitals, stuck: Pulse, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    dog = Watchdog(vitals, SETTINGS, Silence(), pytest.fail)
    clock.now += 3600
    dog.forgive(3600)
    dog.tick()
    assert not caplog.records


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="the system has no CPU time of threads")
def test_a_thread_that_computes_is_left_to_go_on(
    vitals: Vitals, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    dog = Watchdog(vitals, SETTINGS, Silence(), pytest.fail)
    with vitals.pulse("applying"):
        dog.tick()
        clock.now += 200
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass
        dog.tick()
    assert "The thread computes" in caplog.text


PROGRAM = """
import signal, sys, threading, time, logging
from rowcast.shared.cli import signals
logging.basicConfig()
signals._STOP_LIMIT_S = 0.3
lock = threading.Lock(); lock.acquire()
with signals.stop_on_signals() as stop:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
    if sys.argv[1] == "hangs":
        lock.acquire()
    assert stop.wait(10)
"""


@pytest.mark.parametrize(("work", "code"), [("hangs", 4), ("stops", 0)])
def test_a_signal_ends_the_process_whatever_it_waits_for(work: str, code: int) -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", PROGRAM, work], capture_output=True, text=True, timeout=30)
    assert done.returncode == code, done.stderr
    assert time.monotonic() - began < 20
    assert ("the work has not stopped" in done.stderr) is (work == "hangs")


def test_a_log_that_hangs_does_not_keep_the_process(vitals: Vitals, stuck: Pulse, clock: Clock) -> None:
    ends: list[bool] = []
    dog = Watchdog(vitals, SETTINGS, Silence(), lambda: ends.append(True))
    released = threading.Event()

    class FullPipe(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            released.wait(60)

    log, handler = logging.getLogger("rowcast.watchdog"), FullPipe()
    log.addHandler(handler)
    try:
        clock.now += 40
        watching = threading.Thread(target=dog.tick, daemon=True)
        watching.start()
        watching.join(10)
        assert not watching.is_alive()
        clock.now += 90
        dog.tick()
        assert ends
    finally:
        released.set()
        log.removeHandler(handler)
