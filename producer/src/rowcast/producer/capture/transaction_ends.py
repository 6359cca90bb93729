"""Find the statements that end a transaction without SQLAlchemy's commit, and drain the notes before them.

SQL text such as COMMIT ends the transaction. On MariaDB and MySQL most statements except DML end the transaction, DDL
above all. The database then commits the noted changes. Therefore the outbox rows must be written before.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache

from sqlalchemy.engine import Connection

from rowcast.producer.capture.notes.transaction_notes import TransactionNotes
from rowcast.producer.capture.sql_text import statements_of
from rowcast.producer.database.dialects import capture_dialect, find_capture_dialect


class _End(Enum):
    """Say how a statement may end the transaction."""

    COMMIT = "commit"
    ROLLBACK = "rollback"


# The body of a function in standard SQL has an END of its own.
_BODY = re.compile(r"\bbegin\s+atomic\b", re.IGNORECASE)
_COMMIT = re.compile(r"(?:commit(?!\s+prepared)|end|prepare\s+transaction)\b", re.IGNORECASE)
_ROLLBACK = re.compile(r"(?:rollback|abort)\b(?!\s+prepared)(?!.*\bto\b)", re.IGNORECASE | re.DOTALL)
# MariaDB and MySQL commit before every other statement, or may commit, for example in a procedure.
_KEEPS_OPEN = re.compile(
    r"\(*\s*(?:select|with|insert|update|delete|replace|values|table|load\s+data|do|show|desc|describe|explain"
    r"|analyze\s+(?:format|select|insert|update|delete|with)|use|help|kill|handler|savepoint|release|xa|signal|resignal"
    r"|get|prepare|deallocate|(?:create|drop)\s+temporary\s+table|rollback\b.*\bto"
    r"|set\b(?!.*\b(?:autocommit|password)))\b",
    re.IGNORECASE | re.DOTALL,
)


class TransactionEnds:
    """Drain an engine's transactions before a statement that may end them.

    ``drain``: write the notes of a connection's transaction to the outbox.
    """

    def __init__(self, drain: Callable[[Connection], None]) -> None:
        self._drain = drain

    def expect(self, connection: Connection, notes: TransactionNotes, sql: str | None) -> None:
        """Take the step before a statement. ``sql``: the text, or None for a construct of DDL.

        Whether the transaction has ended is found out later, by ``settle``, because SQLAlchemy has no event after SQL
        text that would be free for all other statements.
        """
        dialect = capture_dialect(connection.dialect)
        end = _end_of(sql, dialect.commits_implicitly, dialect.backslash_escapes)
        if end is None:
            return
        if end is _End.COMMIT:
            self._drain(connection)
        dialect.mark_transaction(connection)
        notes.may_have_ended = True
        notes.is_checked = False

    def ends(self, connection: Connection, sql: str) -> bool:
        """Return whether the text may end the transaction."""
        dialect = find_capture_dialect(connection.dialect)
        return dialect is not None and bool(_end_of(sql, dialect.commits_implicitly, dialect.backslash_escapes))

    def settle(self, connection: Connection, notes: TransactionNotes) -> None:
        """Forget the notes if the expected statement has ended the transaction.

        Only ``notes.may_have_ended`` needs the call.
        """
        if notes.may_have_ended:
            notes.may_have_ended = False
            if not capture_dialect(connection.dialect).is_marked_transaction(connection):
                # The statement to be executed now belongs to the next transaction.
                expected = notes.expected
                notes.restart()
                notes.expected = expected


@lru_cache(maxsize=1_000)
def _end_of(sql: str | None, commits_implicitly: bool, mysql: bool) -> _End | None:
    if sql is None:
        return _End.COMMIT if commits_implicitly else None
    found: _End | None = None
    statements = statements_of(sql, mysql)
    if any(map(_BODY.search, statements)):
        return None
    for statement in statements:
        if _ROLLBACK.match(statement):
            found = found or _End.ROLLBACK
        elif _COMMIT.match(statement) or (commits_implicitly and not _KEEPS_OPEN.match(statement)):
            found = _End.COMMIT
    return found
