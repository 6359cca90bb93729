"""Crash or pause a relay at every step with an effect on database or Kafka.

The producer of a crashed relay stays alive and may still deliver messages, because a network can still deliver the
messages of a failed machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from rowcast.producer.relay.claims.claim_table import Claims
from rowcast.producer.relay.claims.lease import LeaseRow
from rowcast.producer.relay.kafka.publisher import Publisher
from rowcast.producer.relay.messages.envelopes import Message

OnStep = Callable[[str], None]

STEPS = (
    "after take",
    "before fencing the predecessor (init_transactions)",
    "after fencing the predecessor (init_transactions)",
    "after reading the marker",
    "before claim",
    "after claim",
    "after a message",
    "before beginning to commit",
    "after beginning to commit",
    "after a commit",
    "before settle",
    "after settle",
)
"""Every place where a relay may crash or sleep."""


class CrashError(BaseException):
    """Crash a relay. The class is not an Exception, because nothing in the relay may catch the crash."""


class Faults:
    """Call the plan of a thread at each step of the relay in the thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._plans: dict[int, OnStep] = {}
        self._zombies: list[Publisher] = []
        self._close = Publisher.close
        self._wrap(monkeypatch, LeaseRow, "take", lambda args: "take")
        self._wrap(monkeypatch, Publisher, "_retry_until_done", lambda args: str(args[1]))
        self._wrap(monkeypatch, Publisher, "begin_commit", lambda args: "beginning to commit")
        self._wrap_committed(monkeypatch)
        self._wrap(monkeypatch, Claims, "_write", lambda args: "claim" if args[1] else "settle")
        self._wrap(monkeypatch, Claims, "park", lambda args: "parking")
        self._wrap_send(monkeypatch)
        self._unless_crashed(monkeypatch, LeaseRow, "release")
        self._unless_crashed(monkeypatch, Publisher, "close")

    def plan(self, on_step: OnStep | None) -> None:
        """Set the plan for the relay in the current thread."""
        self._plans.pop(threading.get_ident(), None)
        if on_step is not None:
            self._plans[threading.get_ident()] = on_step

    def end(self) -> None:
        """Close the producers of crashed relays."""
        for zombie in self._zombies:
            self._close(zombie)

    def _step(self, name: str) -> None:
        plan = self._plans.get(threading.get_ident())
        if plan is not None:
            plan(name)

    def _wrap(
        self, patch: pytest.MonkeyPatch, owner: type, method: str, name: Callable[[tuple[Any, ...]], str]
    ) -> None:
        original = getattr(owner, method)

        def wrapped(this: Any, *args: Any) -> Any:
            self._step(f"before {name(args)}")
            result = original(this, *args)
            self._step(f"after {name(args)}")
            return result

        patch.setattr(owner, method, wrapped)

    def _wrap_committed(self, patch: pytest.MonkeyPatch) -> None:
        original = Publisher.take_committed

        def wrapped(this: Publisher, *, wait: bool = False) -> int | None:
            lsn = original(this, wait=wait)
            if lsn is not None:
                self._step("after a commit")
            return lsn

        patch.setattr(Publisher, "take_committed", wrapped)

    def _wrap_send(self, patch: pytest.MonkeyPatch) -> None:
        original = Publisher.send

        def wrapped(this: Publisher, messages: Iterable[Message], lsn: int) -> None:
            def stepping() -> Iterator[Message]:
                for message in messages:
                    yield message
                    # A message is on its way after the call of ``produce``, even if the relay crashes.
                    this._active.poll(0.001)
                    self._step("after a message")

            original(this, stepping(), lsn)

        patch.setattr(Publisher, "send", wrapped)

    def _unless_crashed(self, patch: pytest.MonkeyPatch, owner: type, method: str) -> None:
        original = getattr(owner, method)

        def wrapped(this: Any, *args: Any) -> None:
            if threading.get_ident() in self._plans and self._has_crashed():
                if isinstance(this, Publisher):
                    self._zombies.append(this)
                return
            original(this, *args)

        patch.setattr(owner, method, wrapped)

    def _has_crashed(self) -> bool:
        plan = self._plans.get(threading.get_ident())
        return isinstance(plan, CrashAt) and plan.crashed


class CrashAt:
    """Crash at the n-th step of this name."""

    def __init__(self, step: str, n: int) -> None:
        self._name = step
        self._left = n
        self.crashed = False

    def __call__(self, step: str) -> None:
        self._left -= step == self._name
        if self._left == 0:
            self.crashed = True
            raise CrashError(step)


class PauseAt:
    """Pause the thread at the first step of this name until ``resume`` is called."""

    def __init__(self, step: str) -> None:
        self._name = step
        self.reached = threading.Event()
        self._resumed = threading.Event()

    def __call__(self, step: str) -> None:
        if step == self._name and not self.reached.is_set():
            self.reached.set()
            assert self._resumed.wait(120)

    def resume(self) -> None:
        self._resumed.set()
