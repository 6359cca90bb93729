"""Give the messages of database drivers, without values of rows unless ``row_values`` are shown.

Servers repeat values in messages: the failing row of a check, the entry of a unique key, the text that is no number.
Only messages of kinds that name nothing but objects of the database pass whole.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Any

from sqlalchemy import exc

from rowcast.shared import row_values
from rowcast.shared.database.driver_errors import has_known_fault, mysql_number, sqlstate

# PostgreSQL's classes of errors about connections, transactions, rights, names, resources and the server itself. The
# messages of integrity errors name constraints, tables and columns. Their DETAIL has the values.
_PLAIN_CLASSES = frozenset(
    ("08", "0A", "23", "24", "25", "28", "2B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "F0", "XX")
)
_SYNTAX_ERROR = "42601"
_DATA_CLASS = "22"
# The function of the server's source that raises the errors of PL/pgSQL's RAISE, with any text and any code.
_RAISE = "exec_stmt_raise"

# MySQL's and MariaDB's errors about missing, existing and unsuitable objects, rights, and columns that are NULL, too
# long or out of range. Foreign keys and checks are named without values.
_PLAIN_NUMBERS = frozenset(
    (
        1005, 1007, 1008, 1048, 1050, 1051, 1054, 1060, 1061, 1067, 1068, 1069, 1070, 1071, 1072, 1074, 1075, 1091,
        1101, 1118, 1142, 1143, 1146, 1153, 1170, 1193, 1214, 1215, 1216, 1217, 1227, 1235, 1253, 1264, 1265, 1267,
        1273, 1283, 1286, 1293, 1364, 1406, 1451, 1452, 1701, 1728, 3780, 3819, 4025,
    )
)  # fmt: skip
_SIGNAL = 1644
_KEY_OR_COLUMN = re.compile(r"'.*'( for (?:key|column) '[^']*'.*)", re.DOTALL)

# The extended code of an error from a trigger, with any text.
_SQLITE_TRIGGER = 1811

_QUOTES = "\"'«»„“”‹›‚‘’"
_BYTES = re.compile(r": 0x[0-9a-f][0-9a-fx ]*")


def first_line(error: exc.DBAPIError) -> str:
    """Return the first line of the driver's message, without a full stop, for the middle of a sentence."""
    text = message(error)
    return text.splitlines()[0].rstrip(".")


def one_line(error: exc.DBAPIError) -> str:
    """Return the driver's whole message in one line."""
    return " ".join(message(error).split())


def message(error: exc.DBAPIError) -> str:
    """Return the driver's message. Leave hidden values out, with a note in the message."""
    text = _driver_text(error)
    if row_values.are_shown():
        return text
    plain = _without_values(error, text)
    has_more = plain != text.partition("\n")[0] or bool(getattr(_diagnostics(error), "message_detail", None))
    return f"{plain.rstrip('.')} {row_values.LEFT_OUT}" if has_more else plain


def _driver_text(error: exc.DBAPIError) -> str:
    cause: BaseException = error.orig or error
    # MySQL's drivers raise with (number, text).
    is_numbered = len(cause.args) > 1 and isinstance(cause.args[0], int)
    text = str(cause.args[1] if is_numbered else cause).strip()
    return text or type(cause).__name__


def _diagnostics(error: exc.DBAPIError) -> Any:
    """Return the fields of PostgreSQL's message, or None for another engine."""
    return getattr(error.orig, "diag", None)


def _without_values(error: exc.DBAPIError, text: str) -> str:
    """Return the first line of the message without values."""
    first = text.partition("\n")[0]
    cause: Any = error.orig
    if isinstance(cause, sqlite3.Error):
        raised = getattr(cause, "sqlite_errorcode", 0) == _SQLITE_TRIGGER
        return "a trigger raised an error" if raised else first
    if number := mysql_number(error):
        return first if has_known_fault(error) else _mysql_text(number, first)
    if state := sqlstate(error):
        return _postgresql_text(_diagnostics(error), state, first)
    # The driver itself refuses a connection, or a value.
    is_about_server = isinstance(error, exc.OperationalError | exc.InterfaceError)
    return first if is_about_server else _cut(first)


def _mysql_text(number: int, text: str) -> str:
    if number in _PLAIN_NUMBERS:
        return text
    if number == _SIGNAL:
        return "code in the database raised an error (SIGNAL)"
    if found := _KEY_OR_COLUMN.search(text):
        return f"{text[: found.start()]}…{found[1]}"
    return _cut(text)


def _postgresql_text(diagnostics: Any, state: str, text: str) -> str:
    raised = getattr(diagnostics, "source_function", None) == _RAISE
    if raised or state[:2] not in _PLAIN_CLASSES | {_DATA_CLASS}:
        return f"code in the database raised an error (SQLSTATE {state})"
    return _cut(text) if state[:2] == _DATA_CLASS or state == _SYNTAX_ERROR else text


def _cut(text: str) -> str:
    """Replace everything from the first quote to the last, because a value may have quotes itself."""
    text = _BYTES.sub(": …", text)
    places = [at for at, character in enumerate(text) if character in _QUOTES]
    return f"{text[: places[0]]}…{text[places[-1] + 1 :]}" if places else text
