"""The claim to a replica: one holder, kept while the worker moves."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import exc

from rowcast.consumer.replica.claim import Claim
from rowcast.consumer.replica.dialects.claims import ClaimSession, SQLiteClaim
from rowcast.consumer.worker import movement as movement_module
from rowcast.consumer.worker.movement import Movement, StandstillLimit
from rowcast.shared.database.sessions import SessionState
from rowcast.shared.database.silence import SilenceWatch
from rowcast.shared.vitals import Vitals

LEASE_S = 0.25


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def new_session(tmp_path: Path) -> Callable[[], SQLiteClaim]:
    return lambda: SQLiteClaim(str(tmp_path / "replica.db"), "shop", 5.0)


def test_a_single_worker_holds_the_claim(new_session: Callable[[], SQLiteClaim]) -> None:
    first, second = (Claim(new_session(), LEASE_S, lambda: True) for _ in range(2))
    assert first.take()
    assert first.take()
    assert not second.take()
    time.sleep(2 * LEASE_S)
    assert first.is_held
    first.release()
    assert not first.is_held
    assert second.take()
    second.release()


def test_a_worker_that_does_not_move_gives_its_claim_up(
    new_session: Callable[[], SQLiteClaim], caplog: pytest.LogCaptureFixture
) -> None:
    moves = threading.Event()
    moves.set()
    first, second = Claim(new_session(), LEASE_S, moves.is_set), Claim(new_session(), LEASE_S, lambda: True)
    assert first.take()
    moves.clear()
    until(second.take)
    assert not first.is_held
    assert "the work does not move" in caplog.text
    first.release()
    second.release()


def test_a_file_that_its_holder_no_longer_touches_is_replaced(
    new_session: Callable[[], SQLiteClaim], tmp_path: Path
) -> None:
    suspended, standby = new_session(), new_session()
    assert suspended.take()
    assert suspended.keep()
    assert not standby.take()
    (file,) = tmp_path.iterdir()
    os.utime(file, (time.time() - 6, time.time() - 6))
    assert not standby.take()
    assert standby.take()
    assert not suspended.keep()
    assert standby.keep()
    suspended.close()
    standby.close()


class SilentSession(ClaimSession):
    """A session whose server does not answer."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def take(self) -> bool:
        return True

    def keep(self) -> bool:
        self.closed.wait()
        return False

    def close(self) -> None:
        self.closed.set()


def test_without_an_answer_the_claim_ends_after_the_lease() -> None:
    claim = Claim(SilentSession(), LEASE_S, lambda: True)
    assert claim.take()
    assert claim.is_held
    until(lambda: not claim.is_held)
    claim.release()


class ClosedSession(SilentSession):
    """A session whose statement fails because another thread closes the connection."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def keep(self) -> bool:
        self.closed.wait()
        raise self._error


@pytest.mark.parametrize(
    "error",
    [exc.ResourceClosedError("This Connection is closed"), AttributeError("'NoneType' object has no attribute 'recv'")],
)
def test_a_claim_can_be_released_during_a_statement(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    claim = Claim(ClosedSession(error), 0.05, lambda: True)
    assert claim.take()
    until(lambda: not claim.is_held)
    claim.release()
    assert caplog.text == ""


class Silence(SilenceWatch):
    state: SessionState | None = None
    look_is_late = False

    def state_of(self, thread: int) -> SessionState | None:
        return self.state

    def is_undecided(self, thread: int, since: float) -> bool:
        return self.look_is_late


@pytest.mark.parametrize(
    ("state", "moves"),
    [
        (None, False),
        (SessionState.WAITING, False),
        (SessionState.SILENT, False),
        (SessionState.WORKING, True),
        (SessionState.UNKNOWN, True),
    ],
)
def test_a_worker_moves_while_the_database_works_for_it(state: SessionState | None, moves: bool) -> None:
    vitals, silence = Vitals("worker"), Silence()
    silence.state = state
    with vitals.pulse("applying") as pulse:
        movement = Movement(vitals, pulse, silence, lease_s=0.05, others_s=10)
        assert movement.is_moving()
        time.sleep(0.1)
        assert movement.is_moving() is moves
        pulse.beat()
        assert movement.is_moving()


def test_a_worker_keeps_its_claim_until_a_late_look_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    vitals, silence = Vitals("worker"), Silence()
    silence.look_is_late = True
    with vitals.pulse("applying") as pulse:
        movement = Movement(vitals, pulse, silence, lease_s=0.05, others_s=10)
        time.sleep(0.1)
        assert movement.is_moving()
        monkeypatch.setattr(movement_module, "_LATE_LOOK_S", 0.01)
        time.sleep(0.1)
        assert not movement.is_moving()
        assert movement.gave_up


def test_a_fruitless_turn_doubles_the_time_that_the_next_may_stand_still() -> None:
    limit = StandstillLimit(5.0, 30.0)
    seen = []
    for _ in range(4):
        seen.append(limit.seconds)
        limit.note_turn(gave_up=True, applied=False)
    limit.note_turn(gave_up=False, applied=False)
    seen.append(limit.seconds)
    limit.note_turn(gave_up=True, applied=True)
    assert [*seen, limit.seconds] == [5, 10, 20, 30, 30, 5]


def test_a_worker_whose_reader_is_stuck_does_not_move() -> None:
    vitals = Vitals("worker")
    with vitals.pulse("applying") as pulse, vitals.pulse("reading") as reading:
        movement = Movement(vitals, pulse, Silence(), lease_s=5, others_s=0.05)
        assert movement.is_moving()
        time.sleep(0.1)
        assert not movement.is_moving()
        reading.beat()
        assert movement.is_moving()
