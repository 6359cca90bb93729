"""Write log lines to standard error, as text or as JSON, with secrets masked.

Results of a command (tables, reports, ``--json``) go to standard output, ready for a pipe.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import orjson
from rich.console import Console
from rich.text import Text

from rowcast.shared.tracebacks import format_traceback

# Log lines, progress and errors share a console, because rich then writes log lines above a progress line.
stderr = Console(stderr=True, highlight=False)

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim"}
# A password ends before quotes and commas, because a host:port may be followed by another URL.
_PASSWORD_IN_URL = re.compile(r"(://[^\s:/@\"',]*:)[^\s@/\"',]+@")
_STARS = "***"
_KAFKA_LOGGER = "rowcast.kafka"
_NUMBERS = re.compile(r"\d+")
# A shorter secret is not masked, because it may occur in ordinary words.
_SHORTEST_SECRET = 4


class LogFormat(StrEnum):
    """Name the formats of log lines."""

    text = "text"
    json = "json"


class LogLevel(StrEnum):
    """Name the least severe level to show."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class Mask:
    """Mask passwords in URLs, and all added secrets, in any text."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._any: re.Pattern[str] | None = None

    def add(self, secrets: Iterable[str]) -> None:
        """Mask these texts from now on, except inside of longer words."""
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                # Plain, and as encoded in a URL.
                self._secrets |= {secret, quote(secret, safe="")}
        # Longer secrets come first, because a secret may be part of another.
        longest_first = sorted(self._secrets, key=len, reverse=True)
        self._any = re.compile("|".join(_whole(secret) for secret in longest_first)) if longest_first else None

    def __call__(self, text: str) -> str:
        text = _PASSWORD_IN_URL.sub(rf"\1{_STARS}@", text)
        return self._any.sub(_STARS, text) if self._any else text

    def value(self, value: Any) -> Any:
        """Mask a value of any type. Numbers, booleans and None stay, everything else becomes a masked text."""
        return value if value is None or isinstance(value, bool | int | float) else self(str(value))


def _whole(secret: str) -> str:
    before = r"(?<!\w)" if secret[0].isalnum() else ""
    after = r"(?!\w)" if secret[-1].isalnum() else ""
    return before + re.escape(secret) + after


mask = Mask()


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller passed as ``extra={…}``."""
    return {k: v for k, v in record.__dict__.items() if k not in _STANDARD}


def _timestamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class JsonFormatter(logging.Formatter):
    """Format a record as a JSON object: ts, level, logger, message, the extras, and exception with the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask(record.getMessage()),
            # An extra must not replace a field above.
            **{k: mask.value(v) for k, v in extras(record).items() if k not in ("ts", "level", "logger", "exception")},
        }
        if record.exc_info and record.exc_info[1]:
            line["exception"] = mask(format_traceback(record.exc_info[1]))
        return orjson.dumps(line).decode()


class TextFormatter(logging.Formatter):
    """Format a record as ``time LEVEL logger: message key=value``, followed by the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {k}={v}" for k, v in extras(record).items())
        text = f"{record.getMessage()}{pairs}"
        if record.exc_info and record.exc_info[1]:
            text += "\n" + format_traceback(record.exc_info[1])
        return f"{_timestamp(record)} {record.levelname} {record.name}: {mask(text)}"


class _ConsoleHandler(logging.Handler):
    """Print text lines, coloured by severity on a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stderr.print(Text(self.format(record), style=_STYLES.get(record.levelname, "")), soft_wrap=True)
        except Exception:  # noqa: BLE001  # like every logging.Handler: a failed line must not stop the work
            self.handleError(record)


_names: ContextVar[Mapping[str, str]] = ContextVar("rowcast_names", default={})  # noqa: B039  # never changed


@contextmanager
def named(names: Mapping[str, str]) -> Iterator[None]:
    """Add names, for example the source, to all log lines of this thread until the block ends."""
    token = _names.set({**_names.get(), **names})
    try:
        yield
    finally:
        _names.reset(token)


class NameFilter(logging.Filter):
    """Add the names of ``named`` to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in _names.get().items():
            setattr(record, name, value)
        return True


class RepeatFilter(logging.Filter):
    """Suppress repeated lines of the Kafka client, which logs each attempt to connect. ``seconds``: for how long."""

    def __init__(self, seconds: float = 30.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._until: dict[str, float] = {}
        self._kept_back: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != _KAFKA_LOGGER:
            return True
        # Durations and thread names differ between repeated lines.
        text = _NUMBERS.sub("", record.getMessage())
        if record.created < self._until.get(text, 0):
            self._kept_back[text] += 1
            return False
        self._until[text] = record.created + self._seconds
        if repeated := self._kept_back.pop(text, 0):
            record.repeated = repeated
        return True


def configure(log_format: LogFormat, level: LogLevel) -> None:
    """Send the log lines of this process to standard error. Lines of other libraries need at least level WARNING."""
    handler: logging.Handler
    if log_format is LogFormat.json:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
    else:
        handler = _ConsoleHandler()
        handler.setFormatter(TextFormatter())
    handler.addFilter(RepeatFilter())
    handler.addFilter(NameFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("rowcast").setLevel(level.upper())
    # warnings.warn becomes a log line too, because readers of JSON expect nothing else.
    logging.captureWarnings(True)
