"""The errors of rowcast, told apart by what the caller can do about them.

    RowcastError
    ├── ConfigurationError      wrong use or configuration: mend it and start again (exit code 2)
    │   └── MissingExtraError   a driver or client that an extra of the distribution brings is not installed
    ├── UnreachableError        a server that is needed does not answer (exit code 3)
    ├── CaptureError            a change that cannot be captured, refused before the database sees it
    ├── DataError               one message, row or outbox entry that is not what it must be; nothing moves past it
    ├── RetriableError          a passing fault of Kafka or of a database: try the same again
    └── FencedError             another relay or worker has taken over: this one must stop or stand by

Every message names the thing (table, key, topic, partition, offset, setting) and the next step.
"""

from __future__ import annotations


class RowcastError(Exception):
    """Base of every error that rowcast raises on purpose. ``exit_code`` is what the command line ends with."""

    exit_code = 1


class ConfigurationError(RowcastError):
    """The configuration, the arguments or the tables are not fit for the work."""

    exit_code = 2


class MissingExtraError(ConfigurationError):
    """A package that one of the extras installs is missing."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed. Install it with: pip install 'rowcast[{extra}]'")
        self.extra = extra


class UnreachableError(RowcastError):
    """A server that the work needs cannot be reached."""

    exit_code = 3


class CaptureError(RowcastError):
    """A statement whose changes the capture cannot tell."""


class DataError(RowcastError):
    """One message or row that cannot be processed; the position stays before it."""

    exit_code = 1


class RetriableError(RowcastError):
    """A passing fault; the same work may be tried again."""

    exit_code = 3


class FencedError(RowcastError):
    """Somebody else has taken this one's place."""
