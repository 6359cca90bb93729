"""Try every order of the steps of two workers that both believe to have a partition, and of a worker that takes over.

The group may be wrong at any time, so nothing here depends on it: any worker may read the positions and apply, pause
between two steps for as long as the others like, crash, or lose the answer to COMMIT. One partition is enough, because
workers swap the position of each partition by itself. The partition has the events 1, 2, and so on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Part = Literal["swap", "swap in the transaction", "epoch"]
"""A part of the protocol that a search may leave out."""

Phase = Literal["idle", "read", "begun", "written", "swapped alone"]

ALONE = 2
"""The number of the worker that takes the replica over for itself."""


class Worker(NamedTuple):
    """What a worker knows. ``up_to``: the last event of the batch that it applies."""

    phase: Phase = "idle"
    position: int = 0
    epoch: int = 0
    up_to: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """The replica and the workers.

    ``history``: the events that have taken effect. ``locked``: the workers with a transaction.
    """

    position: int = 0
    epoch: int = 0
    history: tuple[int, ...] = ()
    locked: frozenset[int] = frozenset()
    workers: tuple[Worker, ...] = (Worker(), Worker(), Worker())

    def having(self, number: int, worker: Worker) -> State:
        """Return the state with another worker in a place."""
        return replace(self, workers=(*self.workers[:number], worker, *self.workers[number + 1 :]))


class Broken(NamedTuple):
    """A history that breaks the promise, and the steps that lead there."""

    history: tuple[int, ...]
    steps: tuple[str, ...]


def search(events: int, without: frozenset[Part] = frozenset()) -> Broken | int:
    """Return the number of states, or the first broken history: an event twice, left out, or out of order."""
    start = State()
    came: dict[State, tuple[State | None, str]] = {start: (None, "")}
    open_states = deque([start])
    is_complete = False
    while open_states:
        state = open_states.popleft()
        if state.history != tuple(range(1, len(state.history) + 1)):
            return Broken(state.history, _steps_to(state, came))
        is_complete |= len(state.history) == events
        for name, after in _steps(state, events, without):
            if after not in came:
                came[after] = (state, name)
                open_states.append(after)
    assert is_complete
    return len(came)


def _steps_to(state: State, came: dict[State, tuple[State | None, str]]) -> tuple[str, ...]:
    names: list[str] = []
    before, name = came[state]
    while before is not None:
        names.append(name)
        before, name = came[before]
    return tuple(reversed(names))


def _steps(state: State, events: int, without: frozenset[Part]) -> Iterator[tuple[str, State]]:
    for number, worker in enumerate(state.workers):
        if worker.phase == "idle":
            yield from _begin_work(state, number)
        else:
            free = replace(state, locked=state.locked - {number})
            yield f"{number} crashes", free.having(number, Worker())
        if number == ALONE:
            yield from _work_alone(state, worker, events)
        else:
            yield from _work_in_group(state, number, worker, events, without)


def _begin_work(state: State, number: int) -> Iterator[tuple[str, State]]:
    if state.epoch:
        # The row of the replica names another owner than the group, so no worker of the group begins.
        return
    if number != ALONE:
        yield f"{number} reads", state.having(number, Worker("read", state.position, state.epoch))
    elif not state.locked:
        # The UPDATE of the replica's row waits for the transactions that share the row.
        taken = replace(state, epoch=1)
        yield "the other takes over", taken.having(number, Worker("read", state.position, 1))


def _work_alone(state: State, worker: Worker, events: int) -> Iterator[tuple[str, State]]:
    if worker.phase == "read" and worker.position < events and not state.locked:
        new = worker.position + 1
        after = replace(state, position=new, history=(*state.history, new))
        yield "the other applies", after.having(ALONE, worker._replace(position=new))


def _work_in_group(
    state: State, number: int, worker: Worker, events: int, without: frozenset[Part]
) -> Iterator[tuple[str, State]]:
    if worker.phase == "read":
        yield from _begin_transaction(state, number, worker, events, without)
    elif worker.phase in ("begun", "swapped alone"):
        yield f"{number} writes", state.having(number, worker._replace(phase="written"))
    elif worker.phase == "written":
        applied = tuple(range(worker.position + 1, worker.up_to + 1))
        # Without a swap in the transaction, the position is written as it is.
        position = state.position if "swap in the transaction" in without else worker.up_to
        after = replace(state, position=position, history=(*state.history, *applied), locked=state.locked - {number})
        yield f"{number} commits", after.having(number, worker._replace(phase="read", position=worker.up_to))
        yield f"{number} commits without an answer", after.having(number, worker._replace(phase="read"))


def _begin_transaction(
    state: State, number: int, worker: Worker, events: int, without: frozenset[Part]
) -> Iterator[tuple[str, State]]:
    swaps = "swap" not in without
    others = state.locked - {number}
    for up_to in {worker.position + 1, events} if worker.position < events else ():
        if swaps and others:
            continue  # The row of the position is locked.
        is_fenced = "epoch" not in without and worker.epoch != state.epoch
        if is_fenced or (swaps and worker.position != state.position):
            yield f"{number} is refused", state.having(number, Worker())
        elif "swap in the transaction" in without:
            swapped = replace(state, position=up_to)
            yield f"{number} swaps", swapped.having(number, worker._replace(phase="swapped alone", up_to=up_to))
        else:
            begun = replace(state, locked=state.locked | {number})
            yield f"{number} begins", begun.having(number, worker._replace(phase="begun", up_to=up_to))
