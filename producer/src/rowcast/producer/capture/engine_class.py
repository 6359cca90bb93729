"""Install a capture on every engine of a class when the engine first connects."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

from sqlalchemy.engine import URL, Connection, Engine

from rowcast.producer.database import live_listeners
from rowcast.shared.database.engines import is_own_engine

UrlFilter = str | Callable[[URL], bool] | None
"""A shell pattern over the URL (its password is ``***``), a function of the URL, or None for every URL."""


def url_matches(url: URL, urls: UrlFilter) -> bool:
    """Return whether the filter takes the URL."""
    if urls is None:
        return True
    if isinstance(urls, str):
        return fnmatchcase(url.render_as_string(hide_password=True), urls)
    return urls(url)


class EngineClassListener:
    """Call ``install`` for each engine with a matching URL, at every connection of the engine.

    Engines of rowcast, such as those of an embedded relay, are left out.
    """

    def __init__(self, engine_class: type[Engine], urls: UrlFilter, install: Callable[[Engine], object]) -> None:
        self.engine_class = engine_class
        self._urls = urls
        self._install = install

    def listen(self) -> None:
        """Start listening to the class. SQLAlchemy then calls the listener for existing engines too."""
        live_listeners.listen_to_class(self.engine_class, "engine_connect", self._engine_connect)

    def stop(self) -> None:
        """Stop listening. Connected engines keep their capture."""
        live_listeners.remove_from_class(self.engine_class, "engine_connect", self._engine_connect)

    def _engine_connect(self, connection: Connection) -> None:
        engine = connection.engine
        if not is_own_engine(engine) and url_matches(engine.url, self._urls):
            self._install(engine)
