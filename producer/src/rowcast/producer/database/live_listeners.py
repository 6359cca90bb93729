"""Add and remove listeners of an engine or a class while other threads use the engine or its instances.

SQLAlchemy calls the listeners of an event by iterating over a deque. A change of the deque meanwhile would fail the
other thread's statement or commit: "deque mutated during iteration".
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.event.attr import _CompoundListener, _EmptyListener
from sqlalchemy.util import walk_subclasses

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


class _CopiedAtIteration(deque[Any]):
    """Hold the listeners of an event of a class. The instances have references to this deque."""

    def __iter__(self) -> Iterator[Any]:
        return iter(tuple(super().__iter__()))


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


def listen_to_class(class_: type[Any], name: str, listener: Callable[..., Any]) -> None:
    """Add a listener to a class, as ``event.listen`` does."""
    with _lock:
        _copy_at_iteration(class_, name)
        event.listen(class_, name, listener)


def remove_from_class(class_: type[Any], name: str, listener: Callable[..., Any]) -> None:
    """Remove a listener from a class, as ``event.remove`` does."""
    with _lock:
        _copy_at_iteration(class_, name)
        event.remove(class_, name, listener)


def _copy_at_iteration(class_: Any, name: str) -> None:
    """Let each iteration over the event's listeners go over a copy."""
    level = getattr(class_.dispatch, name)
    unshared: deque[Any] = deque()
    for subclass in walk_subclasses(class_):
        if subclass not in level._clslevel:
            level.update_subclass(subclass)
        before = level._clslevel[subclass]
        if type(before) is deque:
            level._clslevel[subclass] = after = _CopiedAtIteration(before)
            # A class without instances needs no search, which would read every object of the process.
            if sys.getrefcount(before) > sys.getrefcount(unshared):
                _replace_in_instances(before, after)


def _replace_in_instances(before: deque[Any], after: deque[Any]) -> None:
    """Replace the deque in the collections of listeners, through which the instances of a class refer to the deque."""
    is_frozen = gc.get_freeze_count() > 0
    if is_frozen:
        # The search does not see the objects that the application has frozen, as servers do before they fork.
        gc.unfreeze()
    for collection in gc.get_referrers(before):
        if isinstance(collection, _EmptyListener | _CompoundListener) and collection.parent_listeners is before:
            collection.parent_listeners = after
    if is_frozen:
        gc.freeze()
