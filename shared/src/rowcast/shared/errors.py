"""Define the errors of rowcast. Each class says what the caller can do about the error.

    RowcastError
    ├── ConfigurationError      wrong use or configuration: correct it and start again (exit code 2)
    │   ├── MissingExtraError   a driver or a client of an extra is not installed
    │   └── LoginError          a database or Kafka refuses the user or the password
    ├── UnreachableError        a database or Kafka does not answer (exit code 3)
    ├── CaptureError            a change cannot be captured, and is refused before it runs
    ├── DataError               a message, row or outbox line is not valid, so that the position stays before it
    │   └── SuspectError        a replica's rows are not those of its source any more: rebuild it
    ├── RetriableError          a transient error of Kafka or of a database: try the same work again
    └── FencedError             another relay or worker has taken over: stop, or stand by

Every message names the object (table, key, topic, partition, offset or setting) and the next step.
"""

from __future__ import annotations


class RowcastError(Exception):
    """Serve as the base of all errors of rowcast. ``exit_code``: the exit code of the command line."""

    exit_code = 1


class ConfigurationError(RowcastError):
    """Reject a wrong configuration, wrong arguments or unsuitable tables."""

    exit_code = 2


class MissingExtraError(ConfigurationError):
    """Report a missing package. ``what``: the package. ``extra``: the extra of rowcast to install."""

    def __init__(self, what: str, extra: str) -> None:
        # There is no release on the package index yet.
        super().__init__(f"{what} is not installed. Install it, in a clone of rowcast, with: pip install '.[{extra}]'")
        self.what = what
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """Let another process, as of Celery, rebuild the error from its arguments."""
        return type(self), (self.what, self.extra)


class LoginError(ConfigurationError):
    """Report that a database or Kafka refuses the user, the password or the name of the database."""


class UnreachableError(RowcastError):
    """Report that a database or Kafka does not answer."""

    exit_code = 3


class CaptureError(RowcastError):
    """Refuse a statement whose changes the capture cannot record."""


class DataError(RowcastError):
    """Report an invalid message or row. The position stays before it.

    ``skip``: the value of ``rowcast worker --skip`` that leaves the message or its transaction out, or None.
    """

    exit_code = 1
    skip: str | None = None


class SuspectError(DataError):
    """Report that the rows of a replica are no longer the rows of the source. The replica must be rebuilt."""


class RetriableError(RowcastError):
    """Report a transient error. The same work may succeed later."""

    exit_code = 3


class FencedError(RowcastError):
    """Report the takeover by another relay or worker."""
