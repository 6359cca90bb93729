"""Choose the engines that connect to the source's database."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL

from rowcast.producer.capture.engine_class import url_matches
from rowcast.producer.instrumentation.options import Options
from rowcast.shared.config.settings import Settings
from rowcast.shared.errors import ConfigurationError

_PORTS = {"postgresql": 5432, "mysql": 3306}
_IN_MEMORY = ("", ":memory:")
_THIS_MACHINE = frozenset(("localhost", "127.0.0.1", "::1", None))


class SourceDatabase:
    """Recognize the engines of the source's database by patterns, or else by the primary's URL.

    Raises ConfigurationError without patterns and without a primary.
    """

    def __init__(self, options: Options, settings: Settings) -> None:
        self._patterns = options.url_match
        self._folder = Path(options.folder)
        self._primary = None if settings.primary is None else settings.primary.sqlalchemy_url
        if not self._patterns and self._primary is None:
            raise ConfigurationError(
                "rowcast instrument does not know which database is the source. Set url in [primary] of rowcast.toml, "
                "or give --url-match a pattern such as 'postgresql*/shop'."
            )

    def is_of(self, url: URL) -> bool:
        """Return whether an engine with this URL connects to the source's database."""
        if self._patterns:
            return any(url_matches(url, pattern) for pattern in self._patterns)
        assert self._primary is not None
        return _place(url, Path()) == _place(self._primary, self._folder)

    def __str__(self) -> str:
        """Return the description for messages, without a password."""
        if self._patterns:
            return f"--url-match {' '.join(self._patterns)}"
        return f"the primary of the configuration, {self._primary}"


def _place(url: URL, folder: Path) -> tuple[object, ...]:
    """Return server and database of a URL. The driver, the user and options of the URL do not count.

    ``folder``: the folder for a relative path of an SQLite file.
    """
    backend = "mysql" if url.get_backend_name() == "mariadb" else url.get_backend_name()
    if backend == "sqlite":
        return backend, _sqlite_file(url.database, folder)
    host = url.host or url.query.get("host")
    place = "this machine" if host in _THIS_MACHINE or str(host).startswith("/") else host
    return backend, place, url.port or _PORTS.get(backend), url.database


def is_in_memory(url: URL) -> bool:
    """Return whether the URL means an SQLite database inside one process."""
    return url.get_backend_name() == "sqlite" and _sqlite_file(url.database, Path()) in _IN_MEMORY


def _sqlite_file(database: str | None, folder: Path) -> str:
    name = (database or ":memory:").removeprefix("file:").partition("?")[0]
    return name if name in _IN_MEMORY else str((folder / name).resolve())
