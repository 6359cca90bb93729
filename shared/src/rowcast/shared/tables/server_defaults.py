"""Recognize the server default of a column, because the text of a default in a message must never become SQL.

A default has a known form: a literal, or a function of every engine under some name. A dialect of the replica writes
SQL for the form. An unknown text has the kind ``other`` and is only shown to people.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

DefaultKind = Literal["number", "string", "boolean", "now", "now_on_update", "utc_now", "today", "uuid", "other"]
DEFAULT_KINDS: frozenset[str] = frozenset(get_args(DefaultKind))


@dataclass(frozen=True, slots=True)
class ServerDefault:
    """Describe a column's default in a database. ``kind`` is in DEFAULT_KINDS.

    ``value``: the digits of a number, the text of a string, ``true`` or ``false``, or the unknown SQL of the kind
    ``other``, else "". ``now_on_update``: an UPDATE writes the time too, as MySQL can.
    """

    kind: str
    value: str = ""


NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
# The meaning of a backslash in texts of MySQL depends on the SQL mode.
_STRING = re.compile(r"(?:_utf8mb4)?'((?:[^'\\\0]|'')*)'")
# The type of a literal, as PostgreSQL shows it: '0'::numeric, 'new'::character varying(20), '{}'::jsonb.
_CAST = re.compile(r"\s*::\s*[\w\"][\w\". ]*(?:\(\s*\d+(?:\s*,\s*\d+)*\s*\))?(?:\[\])*\s*")
_FUNCTIONS: dict[str, ServerDefault] = {
    "true": ServerDefault("boolean", "true"),
    "false": ServerDefault("boolean", "false"),
    **dict.fromkeys(("now", "current_timestamp", "localtimestamp", "localtime", "transaction_timestamp",
                     "statement_timestamp", "clock_timestamp"), ServerDefault("now")),
    **dict.fromkeys(("utc_timestamp", "timezone('utc',now())", "timezone('utc'::text,now())", "now()attimezone'utc'",
                     "current_timestampattimezone'utc'", "now()attimezone'utc'::text"), ServerDefault("utc_now")),
    **dict.fromkeys(("current_date", "curdate"), ServerDefault("today")),
    "json_object": ServerDefault("string", "{}"),
    "json_array": ServerDefault("string", "[]"),
    **dict.fromkeys(("gen_random_uuid", "uuid_generate_v4", "uuid", "uuidv4"), ServerDefault("uuid")),
}  # fmt: skip
_SPACES = re.compile(r"\s+")
_ON_UPDATE = re.compile(r"current_timestamp(?:\(\d?\))?onupdatecurrent_timestamp(?:\(\d?\))?")
_CALL = re.compile(r"(.+?)(?:\(\d?\))?")


def parse_default(sql: str) -> ServerDefault | None:
    """Return the form of a default's SQL, or None for NULL."""
    text = _without_parentheses(sql)
    if text.lower() == "null" or re.fullmatch(r"null\s*::.+", text.lower()):
        return None
    literal = _without_cast(text)
    if NUMBER.fullmatch(literal):
        return ServerDefault("number", literal)
    if match := _STRING.fullmatch(literal):
        return ServerDefault("string", match[1].replace("''", "'"))
    squeezed = _SPACES.sub("", text).lower()
    if _ON_UPDATE.fullmatch(squeezed):
        return ServerDefault("now_on_update")
    if found := _FUNCTIONS.get(squeezed):
        return found
    if (match := _CALL.fullmatch(squeezed)) and (found := _FUNCTIONS.get(match[1])):
        return found
    return ServerDefault("other", sql)


_NAME = r"""(?:"[^"']+"|`[^`']+`|\w+)"""
_NEXT_VALUE = re.compile(
    rf"nextval\(\s*(?:'(?:{_NAME}\.)?(?P<quoted>{_NAME})'(?:\s*::\s*\w+)?|(?:{_NAME}\.)?(?P<plain>{_NAME}))\s*\)",
    re.IGNORECASE,
)


def sequence_of(sql: str) -> str | None:
    """Return the unquoted name of the sequence that gives a default, or None."""
    match = _NEXT_VALUE.fullmatch(_without_parentheses(sql))
    return None if match is None else (match["quoted"] or match["plain"]).strip('"`')


def _without_parentheses(sql: str) -> str:
    text = sql.strip()
    while text.startswith("(") and text.endswith(")") and _are_partners(text):
        text = text[1:-1].strip()
    return text


def _are_partners(text: str) -> bool:
    """Return whether the first and the last parenthesis belong together, with balanced or no parentheses inside."""
    depth = 0
    for place, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return place == len(text) - 1
    return False


def _without_cast(text: str) -> str:
    start = text.rfind("'") + 1 if text.startswith("'") else 0
    place = text.find("::", start)
    if place < 0:
        return text
    return _without_parentheses(text[:place]) if _CAST.fullmatch(text[place:]) else text
