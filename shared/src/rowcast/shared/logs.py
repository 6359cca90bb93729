"""Log lines on standard error: text for people, JSON for machines, secrets starred in both.

Results of a command (tables, reports, ``--json``) go to standard output, so that they can be piped.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import orjson
from rich.console import Console
from rich.text import Text

# One console for log lines, progress and errors: rich then writes log lines above a progress line, not through it.
stderr = Console(stderr=True, highlight=False)

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_STYLES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim"}
# No quotes or commas: what follows an innocent host:port is not a password.
_PASSWORD_IN_URL = re.compile(r"(://[^\s:/@\"',]*:)[^\s@/\"',]+@")
_STARS = "***"
_KAFKA_LOGGER = "rowcast.kafka"
_NUMBERS = re.compile(r"\d+")
# Starring out a shorter secret wherever its text occurs would eat ordinary words.
_SHORTEST_SECRET = 4


class LogFormat(StrEnum):
    """What a log line looks like."""

    text = "text"
    json = "json"


class LogLevel(StrEnum):
    """The least severe line that is shown."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class Mask:
    """Stars out passwords in URLs, and every secret it was told, in any text."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._any: re.Pattern[str] | None = None

    def add(self, secrets: Iterable[str]) -> None:
        """From now on these texts are shown as stars, where they are no part of a longer word."""
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                # As it is, and as it stands in a URL.
                self._secrets |= {secret, quote(secret, safe="")}
        # The longer first: one secret may be part of another.
        longest_first = sorted(self._secrets, key=len, reverse=True)
        self._any = re.compile("|".join(_whole(secret) for secret in longest_first)) if longest_first else None

    def __call__(self, text: str) -> str:
        text = _PASSWORD_IN_URL.sub(rf"\1{_STARS}@", text)
        return self._any.sub(_STARS, text) if self._any else text

    def value(self, value: Any) -> Any:
        """The same for what is not a text yet: anything but numbers, truth values and None becomes one."""
        return value if value is None or isinstance(value, bool | int | float) else self(str(value))


def _whole(secret: str) -> str:
    before = r"(?<!\w)" if secret[0].isalnum() else ""
    after = r"(?!\w)" if secret[-1].isalnum() else ""
    return before + re.escape(secret) + after


mask = Mask()


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as ``extra={…}``."""
    return {k: v for k, v in record.__dict__.items() if k not in _STANDARD}


def _timestamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, message, the extras, and exception with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask(record.getMessage()),
            # An extra may not take the place of a field above.
            **{k: mask.value(v) for k, v in extras(record).items() if k not in ("ts", "level", "logger", "exception")},
        }
        if record.exc_info:
            line["exception"] = mask(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()


class TextFormatter(logging.Formatter):
    """``time LEVEL logger: message key=value``, and the traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {k}={v}" for k, v in extras(record).items())
        told = f"{record.getMessage()}{pairs}"
        if record.exc_info:
            told += "\n" + self.formatException(record.exc_info)
        return f"{_timestamp(record)} {record.levelname} {record.name}: {mask(told)}"


class _ConsoleHandler(logging.Handler):
    """Text lines, coloured by severity where a terminal shows them."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stderr.print(Text(self.format(record), style=_STYLES.get(record.levelname, "")), soft_wrap=True)
        except Exception:  # noqa: BLE001  # as every logging.Handler: a line that cannot be written stops nothing
            self.handleError(record)


_source: ContextVar[str | None] = ContextVar("rowcast_source", default=None)


@contextmanager
def about_source(name: str) -> Iterator[None]:
    """Every line that this thread writes in the block names the source."""
    token = _source.set(name)
    try:
        yield
    finally:
        _source.reset(token)


class NamesTheSource(logging.Filter):
    """Adds what ``about_source`` says to each line."""

    def filter(self, record: logging.LogRecord) -> bool:
        name = _source.get()
        if name is not None:
            record.source = name
        return True


class QuietRepeats(logging.Filter):
    """Lets a line of the Kafka client through once in a while: each attempt to connect would tell the same again."""

    def __init__(self, seconds: float = 30.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._until: dict[str, float] = {}
        self._kept_back: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != _KAFKA_LOGGER:
            return True
        # Durations and thread names differ from time to time.
        text = _NUMBERS.sub("", record.getMessage())
        if record.created < self._until.get(text, 0):
            self._kept_back[text] += 1
            return False
        self._until[text] = record.created + self._seconds
        if repeated := self._kept_back.pop(text, 0):
            record.repeated = repeated
        return True


def configure(log_format: LogFormat, level: LogLevel) -> None:
    """Sends this process's log lines to standard error. Other libraries' lines only from warnings up."""
    handler: logging.Handler
    if log_format is LogFormat.json:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
    else:
        handler = _ConsoleHandler()
        handler.setFormatter(TextFormatter())
    handler.addFilter(QuietRepeats())
    handler.addFilter(NamesTheSource())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("rowcast").setLevel(level.upper())
    # warnings.warn becomes a log line too: JSON readers get nothing but JSON.
    logging.captureWarnings(True)
