"""Recognize the DDL of a column's type, because the DDL in a message of a topic becomes part of a statement.

A type has a name, parameters, and words of a fixed list, as in ``app.mood[]``, ``NUMERIC(10, 2)``, ``ENUM('a','b')`` or
``TIMESTAMP(6) WITH TIME ZONE``. Whatever else DDL may say about a column, such as DEFAULT or CHECK, is no type.
"""

from __future__ import annotations

import re

# The words allowed after the name and the parameters of a type. A name or number follows COLLATE, CHARACTER SET and
# SRID.
_WORDS = (
    "VARYING", "PRECISION", "WITH", "WITHOUT", "LOCAL", "TIME", "ZONE", "UNSIGNED", "SIGNED", "ZEROFILL", "BINARY",
    "ASCII", "UNICODE", "LARGE", "OBJECT", "YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND", "TO", "ARRAY", "INT",
    "INTEGER", "CHARACTER", "CHAR", "BIG",
)  # fmt: skip

# A backslash before a quote ends a text in one SQL mode of MySQL and not in another.
_TEXT = r"'(?:[^'\\\0]|''|\\(?!'))*'"
_NAME = r'(?:[^\W\d][\w$]*|"(?:[^"\0]|"")+"|`(?:[^`\0]|``)+`)'
_QUALIFIED = rf"{_NAME}(?:\.{_NAME})?"
_PARAMETER = rf"(?:-?\d+|{_QUALIFIED}|{_TEXT})"
_PARAMETERS = rf"\(\s*{_PARAMETER}(?:\s*,\s*{_PARAMETER})*\s*\)"
_SUFFIX = (
    rf"\s*{_PARAMETERS}|\s*\[\d*\]|\s+(?:COLLATE|CHARACTER\s+SET|CHARSET)\s+{_QUALIFIED}|\s+SRID\s+\d+"
    rf"|\s+(?:{'|'.join(_WORDS)})\b"
)
_TYPE = re.compile(rf"(?:NATIONAL\s+|LONG\s+|DOUBLE\s+)?{_QUALIFIED}(?:{_SUFFIX})*", re.IGNORECASE)


def is_type(ddl: str) -> bool:
    """Return whether the text is the DDL of a type, and nothing more."""
    return _TYPE.fullmatch(ddl) is not None
