"""Add and remove listeners of an engine while other threads use the engine.

SQLAlchemy calls the listeners of an event by iterating over a deque. A change of the deque meanwhile would fail the
other thread's statement or commit: "deque mutated during iteration".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

_lock = Lock()


class _CopiedAtChange(deque[Any]):
    """Hold the listeners of an event. A change puts a changed copy in the place of this deque."""

    def __init__(self, collection: Any, listeners: Iterable[Any]) -> None:
        super().__init__(listeners)
        self._collection = collection

    def append(self, listener: Any) -> None:
        self._replace([*self, listener])

    def appendleft(self, listener: Any) -> None:
        self._replace([listener, *self])

    def remove(self, listener: Any) -> None:
        rest = list(self)
        rest.remove(listener)
        self._replace(rest)

    def _replace(self, listeners: Iterable[Any]) -> None:
        self._collection.listeners = _CopiedAtChange(self._collection, listeners)


def listen(engine: Engine, name: str, listener: Callable[..., Any], *, retval: bool = False) -> None:
    """Add a listener to an engine, its pool or its dialect, as ``event.listen`` does."""
    options = {"retval": True} if retval else {}
    with _lock:
        _copy_at_change(engine, name)
        event.listen(engine, name, listener, **options)


def remove(engine: Engine, name: str, listener: Callable[..., Any]) -> None:
    """Remove a listener from an engine, its pool or its dialect, as ``event.remove`` does."""
    with _lock:
        _copy_at_change(engine, name)
        event.remove(engine, name, listener)


def _copy_at_change(engine: Engine, name: str) -> None:
    """Let changes of the event's listeners go to a copy, also those that the application makes from now on."""
    owners: Sequence[Any] = (engine, engine.pool, engine.dialect)
    dispatch = next(owner.dispatch for owner in owners if hasattr(owner.dispatch, name))
    collection = getattr(dispatch, name).for_modify(dispatch)
    if not isinstance(collection.listeners, _CopiedAtChange):
        collection.listeners = _CopiedAtChange(collection, collection.listeners)
