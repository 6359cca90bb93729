"""Describe what an application sees of a statement: its result, its error, its warnings."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Any

from sqlalchemy import exc, inspect
from sqlalchemy.engine import Result, Row

from rowcast.shared.errors import CaptureError

_ATTRIBUTES = (
    "rowcount", "lastrowid", "inserted_primary_key", "inserted_primary_key_rows", "returned_defaults",
    "returned_defaults_rows", "is_insert",
)  # fmt: skip
_METHODS = (
    "supports_sane_rowcount", "supports_sane_multi_rowcount", "lastrow_has_defaults", "postfetch_cols",
    "prefetch_cols", "last_inserted_params",
)  # fmt: skip


def attempt(get: Callable[[], Any]) -> Any:
    """Return the described value, or the described error. A refusal of the capture is raised."""
    try:
        return plain(get())
    except CaptureError:
        raise
    except Exception as error:  # noqa: BLE001  # the application sees every error
        return described_error(error)


def described_error(error: BaseException) -> tuple[Any, ...]:
    """Return class and message of an error.

    The message of the driver counts, because SQLAlchemy's own message has the executed text, in which the capture may
    have added a RETURNING.
    """
    original = getattr(error, "orig", None)
    if isinstance(error, exc.DBAPIError):
        # MySQL names the database.
        return type(error).__name__, type(original).__name__, re.sub(r"`test_\w+`", "`database`", str(original))
    return type(error).__name__, without_addresses(str(error))


def without_addresses(message: str) -> str:
    """Leave the addresses of objects out of a message, because no two objects have the same."""
    return re.sub(r" at 0x[0-9a-f]+", "", message)


def described_result(result: Any, read: str) -> dict[str, Any]:
    """Return everything that the application can ask a result for. ``read``: the method that reads the rows."""
    seen: dict[str, Any] = {"returns_rows": result.returns_rows, "class": type(result).__name__}
    seen["keys"] = attempt(lambda: list(result.keys()))
    seen["rows"] = attempt(lambda: _rows(result, read))
    for name in _ATTRIBUTES:
        if name == "rowcount" and read in ("first", "partitions") and result.returns_rows:
            # SQLite's driver counts the rows that have been read, and the capture reads all.
            continue
        seen[name] = attempt(lambda name=name: getattr(result, name))  # type: ignore[misc]
    for name in _METHODS:
        seen[name] = attempt(lambda name=name: getattr(result, name)())  # type: ignore[misc]
    context = getattr(result, "context", None)
    if not getattr(context, "isinsert", True):
        # MariaDB reports 0 or no number for a DELETE with RETURNING that finds no row, as its optimizer decides.
        seen["lastrowid"] = seen["lastrowid"] or None
    if getattr(context, "isupdate", False) or getattr(context, "isdelete", False):
        _forget_order(seen)
    for name in ("isinsert", "isupdate", "isdelete", "executemany", "is_crud"):
        seen[name] = getattr(context, name, None)
    seen["closed"] = getattr(result, "closed", None)
    return seen


def _forget_order(seen: dict[str, Any]) -> None:
    """Sort the rows of an UPDATE or DELETE, which come in the order in which the database stores them."""
    for name in ("rows", "returned_defaults_rows"):
        if isinstance(seen[name], list):
            # Partitions are lists of rows.
            rows = [row for part in seen[name] for row in (part if isinstance(part, list) else [part])]
            seen[name] = sorted(rows, key=repr)
            if len(rows) > 1:
                seen["returned_defaults"] = "one of them"
    if seen["rowcount"] != 1 and isinstance(seen["rows"], tuple) and seen["rows"][0] == "row":
        seen["rows"] = "one of them"


def _rows(result: Result[Any], read: str) -> Any:
    match read:
        case "mappings":
            return [dict(row) for row in result.mappings()]
        case "scalars":
            return result.scalars().all()
        case "first":
            return result.first()
        case "unique":
            return result.unique().all()
        case "partitions":
            return [list(part) for part in result.partitions(2)]
        case _:
            return result.all()


def plain(value: Any) -> Any:
    """Return a value that can be compared with the value of another run."""
    if isinstance(value, Row):
        return ("row", value._fields, tuple(map(plain, value)))
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    if isinstance(value, Enum) or not hasattr(value, "__mapper__"):
        if isinstance(value, (int, str, bytes, float, type(None), Enum)):
            return value
        return type(value).__name__, str(getattr(value, "name", ""))
    # The state is read without the attributes, because reading them would load what is expired.
    state = inspect(value)
    loaded = {name: plain(v) for name, v in state.dict.items() if not name.startswith("_")}
    return (type(value).__name__, state.persistent, sorted(state.unloaded), loaded)
