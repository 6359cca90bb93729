"""Know the open connections of rowcast's own engines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy.engine import URL

_lock = threading.Lock()
_urls: WeakKeyDictionary[Any, URL] = WeakKeyDictionary()


def note_opened(connection: Any, url: URL) -> None:
    """Remember a driver's connection until its last use."""
    with _lock:
        _urls[connection] = url


def url_of(connection: Any) -> URL | None:
    """Return the URL of the driver's connection, or None for a connection that rowcast did not open."""
    try:
        with _lock:
            return _urls.get(connection)
    except TypeError:
        # The object is no driver's connection: not hashable, or without weak references.
        return None


def open_connections() -> Iterator[tuple[Any, URL]]:
    """Yield the driver's connections with their URLs."""
    with _lock:
        known = list(_urls.items())
    yield from known
