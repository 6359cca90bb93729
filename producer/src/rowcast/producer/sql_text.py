"""Which tables a statement written as SQL text changes, as far as its words tell.

Not a parser: what looks like a change is taken for one, since a change that is overlooked is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from rowcast.shared.types import MYSQL_FAMILY

Name = tuple[str, ...]
"""A table's name as written, without its quotes: ``("public", "orders")``."""

_IDENTIFIER = r"(?:[^\W\d][\w$]*|\"(?:[^\"]|\"\")+\"|`(?:[^`]|``)+`)"
_NAME = rf"{_IDENTIFIER}(?:\s*\.\s*{_IDENTIFIER})*"
_NAME_PATTERN = re.compile(_NAME)

# What is not SQL: comments, string literals, PostgreSQL's dollar quotes. A quoted name is kept.
_NOT_SQL = re.compile(
    r"(?P<name>\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`)"
    r"|--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$",
    re.DOTALL,
)
# MySQL's double quotes make a literal too, and a backslash takes the next character with it.
_NOT_SQL_ON_MYSQL = re.compile(
    r"(?P<name>`(?:[^`]|``)*`)|--[^\n]*|\#[^\n]*|/\*.*?\*/|'(?:[^'\\]|''|\\.)*'|\"(?:[^\"\\]|\"\"|\\.)*\"",
    re.DOTALL,
)
# Between the verb and the table: MySQL's, SQLite's and PostgreSQL's modifiers.
_MODIFIERS = (
    r"(?:\s+(?:low_priority|delayed|high_priority|quick|ignore|only|into|table|or\s+(?:replace|ignore|abort|fail|"
    r"rollback)))*"
)
_ONE = re.compile(rf"\b(?:insert|replace|merge){_MODIFIERS}\s+(?P<table>{_NAME})", re.IGNORECASE)
_COPY = re.compile(rf"\bcopy\s+(?P<table>{_NAME})\s*(?:\([^)]*\)\s*)?from\b", re.IGNORECASE)
_LOAD = re.compile(rf"\bload\s+(?:data|xml)\b.*?\binto\s+table\s+(?P<table>{_NAME})", re.IGNORECASE | re.DOTALL)
_SEVERAL = (
    re.compile(rf"\bupdate{_MODIFIERS}\s+(?P<tables>[^;]+?)\s+set\b", re.IGNORECASE),
    re.compile(rf"\bdelete{_MODIFIERS}\s+(?P<tables>[^;]+?)(?:\s+(?:where|using|returning|limit)\b|[;)]|$)", re.I),
    re.compile(rf"\btruncate{_MODIFIERS}\s+(?P<tables>[^;]+)", re.IGNORECASE),
)


def changed_tables(sql: str, tables: Iterable[sa.Table], dialect: Dialect) -> list[sa.Table]:
    """Those of ``tables`` that the text seems to change. A name without a schema may mean any schema's, unless there is
    a table that has none."""
    tables = list(tables)
    changed = {table for name in _changed_names(sql, dialect.name in MYSQL_FAMILY) for table in _meant(name, tables)}
    return [table for table in tables if table in changed]


def _meant(name: Name, tables: Iterable[sa.Table]) -> list[sa.Table]:
    alike = [table for table in tables if table.name.lower() == name[-1].lower()]
    schema = name[-2].lower() if len(name) > 1 else None
    exactly = [table for table in alike if (table.schema.lower() if table.schema else None) == schema]
    # The default schema may be written, and a schema may be found by a search path.
    return exactly or [table for table in alike if table.schema is None or schema is None]


@lru_cache(maxsize=1_000)
def _changed_names(sql: str, mysql: bool) -> frozenset[Name]:
    not_sql = _NOT_SQL_ON_MYSQL if mysql else _NOT_SQL
    bare = not_sql.sub(lambda found: found["name"] or " ", sql)
    written = [found["table"] for pattern in (_ONE, _COPY, _LOAD) for found in pattern.finditer(bare)]
    for pattern in _SEVERAL:
        for found in pattern.finditer(bare):
            written += _NAME_PATTERN.findall(found["tables"])
    return frozenset(map(_parts, written))


def _parts(name: str) -> Name:
    return tuple(_unquoted(part) for part in re.findall(_IDENTIFIER, name))


def _unquoted(part: str) -> str:
    quote = part[0]
    return part[1:-1].replace(quote * 2, quote) if quote in '"`' else part
