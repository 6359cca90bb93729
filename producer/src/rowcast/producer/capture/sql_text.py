"""Find the tables that SQL text changes, from its words and without a parser.

Text that looks like a change counts as a change, because an overlooked change is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from rowcast.producer.database.dialects import find_capture_dialect

NameParts = tuple[str, ...]
"""The parts of a table's name in the text, without quotes: ``("public", "orders")``."""

_IDENTIFIER = r"(?:[^\W\d][\w$]*|\"(?:[^\"]|\"\")+\"|`(?:[^`]|``)+`)"
_NAME = rf"{_IDENTIFIER}(?:\s*\.\s*{_IDENTIFIER})*"
_NAME_PATTERN = re.compile(_NAME)
_WORD = re.compile(rf"{_IDENTIFIER}(?![\w$]|\s*\()")

# Comments, string literals and PostgreSQL's dollar quotes hold no table names. A quoted name is kept.
_NOT_SQL = re.compile(
    r"(?P<name>\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`)"
    r"|--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$",
    re.DOTALL,
)
# In MySQL double quotes make a literal too, and a backslash escapes the next character.
_NOT_SQL_ON_MYSQL = re.compile(
    r"(?P<name>`(?:[^`]|``)*`)|--[^\n]*|\#[^\n]*|/\*.*?\*/|'(?:[^'\\]|''|\\.)*'|\"(?:[^\"\\]|\"\"|\\.)*\"",
    re.DOTALL,
)
# Modifiers of MySQL, SQLite and PostgreSQL between the verb and the table.
_MODIFIERS = (
    r"(?:\s+(?:low_priority|delayed|high_priority|quick|ignore|only|into|table|or\s+(?:replace|ignore|abort|fail|"
    r"rollback)))*"
)
# PostgreSQL's DO executes the code in the dollar quotes or in the literal.
_DO = re.compile(r"\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*do\b", re.IGNORECASE | re.DOTALL)
_CODE_OF_DO = re.compile(r"\$(?P<tag>\w*)\$(?P<quoted>.*?)\$(?P=tag)\$|'(?P<literal>(?:[^']|'')*)'", re.DOTALL)
# MySQL and MariaDB execute the text in these comments.
_EXECUTED_COMMENT = re.compile(r"/\*M?!\d*(?P<code>.*?)\*/", re.DOTALL)
# A procedure or a prepared statement may change any table. The text that creates a procedure calls nothing.
_CALL = re.compile(r"^(?!\s*create\b)(?:.*;)?\s*(?:call|execute)\b", re.IGNORECASE | re.DOTALL)
_CALL_IN_CODE = re.compile(r"\b(?:call|execute)\b", re.IGNORECASE)
# These statements name the verbs of rights, or hold code that runs later, and change no row themselves.
_WITHOUT_CHANGES = re.compile(
    r"(?:^|(?<=;))\s*(?:(?:grant|revoke|alter\s+default\s+privileges)\b[^;]*|create\s+(?:(?:or\s+replace|temp(?:orary)?|constraint|aggregate|"
    r"definer\s*=\s*\S+)\s+)*(?:trigger|function|procedure|rule|event)\b(?:[^;]*?\bbegin\b.*?\bend\s*(?=;|$)|[^;]*))",
    re.IGNORECASE | re.DOTALL,
)
_INSERT = re.compile(rf"\b(?:insert|replace|merge){_MODIFIERS}\s+(?P<table>{_NAME})", re.IGNORECASE)
_COPY = re.compile(rf"\bcopy\s+(?P<table>{_NAME})\s*(?:\([^)]*\)\s*)?from\b", re.IGNORECASE)
_LOAD = re.compile(rf"\bload\s+(?:data|xml)\b.*?\binto\s+table\s+(?P<table>{_NAME})", re.IGNORECASE | re.DOTALL)
_WITH_SEVERAL_TABLES = (
    re.compile(rf"\bupdate{_MODIFIERS}\s+(?P<tables>[^;]+?)\s+set\b", re.IGNORECASE),
    re.compile(rf"\bdelete{_MODIFIERS}\s+(?P<tables>[^;]+?)(?:\s+(?:where|using|returning|limit)\b|[;)]|$)", re.I),
    re.compile(rf"\btruncate{_MODIFIERS}\s+(?P<tables>[^;]+)", re.IGNORECASE),
)
# A TRUNCATE alone, in PostgreSQL's form.
_TRUNCATE = re.compile(
    r"truncate(?:\s+table)?\s+(?P<tables>.+?)(?:\s+(?:restart|continue)\s+identity)?(?:\s+(?P<cascade>cascade)|\s+restrict)?",
    re.IGNORECASE | re.DOTALL,
)
_TRUNCATED = re.compile(rf"\s*(?:only\s+)?(?P<table>{_NAME})\s*\*?\s*", re.IGNORECASE)
# In a DELETE, MySQL names the tables before USING by the aliases after it.
_USING = re.compile(
    rf"\bdelete{_MODIFIERS}\s[^;]*?\b(?:using|from)\s+(?P<tables>[^;]+?)(?:\s+(?:where|returning|limit)\b|[;)]|$)", re.I
)


_CREATED = re.compile(
    rf"\bcreate\s+(?:or\s+replace\s+)?(?:(?:global|local|unlogged|recursive)\s+)*(?P<temporary>temp(?:orary)?\s+)?"
    rf"(?:recursive\s+)?(?:table|view)\s+(?:if\s+not\s+exists\s+)?(?P<table>{_NAME})",
    re.IGNORECASE,
)
_SELECTED_INTO = re.compile(
    rf"\binto\s+(?:(?:local|global)\s+)?temp(?:orary)?\s+(?:table\s+)?(?P<table>{_NAME})", re.IGNORECASE
)
_TEMPORARY_SCHEMAS = ("pg_temp", "temp")
"""The schemas of temporary tables in PostgreSQL and SQLite."""


def changed_tables(sql: str, tables: Iterable[sa.Table], dialect: Dialect) -> list[sa.Table]:
    """Return those of ``tables`` that the text seems to change.

    A name without a schema stands for the table without a schema, or else for all tables of the name.
    """
    tables = list(tables)
    changed = {table for name in changed_names(sql, dialect) for table in _find_tables(name, tables)}
    return [table for table in tables if table in changed]


def changed_names(sql: str, dialect: Dialect) -> frozenset[NameParts]:
    """Return the names of the tables that the text seems to change."""
    return _changed_names(sql, _is_mysql(dialect))


def hidden_tables(sql: str, tables: Iterable[sa.Table], dialect: Dialect) -> list[sa.Table]:
    """Return the tables hidden by a temporary table or view that the text creates.

    MariaDB and MySQL find a temporary table in each schema before the table of the schema. PostgreSQL and SQLite have a
    schema of temporary tables, which they search before the others for a name without a schema.
    """
    mysql, tables = _is_mysql(dialect), list(tables)
    hidden = {table for name in _temporary_names(sql, mysql) for table in _find_tables(name, tables)}
    return [table for table in tables if table in hidden and (mysql or table.schema is None)]


def words_of(sql: str, dialect: Dialect) -> frozenset[str]:
    """Return the words of the text in lower case: verbs and names, but not the names of functions."""
    return _words_of(sql, _is_mysql(dialect))


def truncated_tables(sql: str, tables: Iterable[sa.Table], dialect: Dialect) -> tuple[list[sa.Table], bool] | None:
    """Return the tables that a TRUNCATE empties, and whether the TRUNCATE cascades. Return None for any other text."""
    found = _truncated_names(sql, _is_mysql(dialect))
    if found is None:
        return None
    names, cascades = found
    tables = list(tables)
    return [table for name in names for table in _find_tables(name, tables)], cascades


def calls_code(sql: str, dialect: Dialect) -> bool:
    """Return whether the text calls a procedure or executes a prepared statement, which may change any table."""
    return _calls_code(sql, _is_mysql(dialect))


def _is_mysql(dialect: Dialect) -> bool:
    # The application may use engines without a capture dialect, for tables without capture.
    found = find_capture_dialect(dialect)
    return found is not None and found.backslash_escapes


def _find_tables(name: NameParts, tables: Iterable[sa.Table]) -> list[sa.Table]:
    same_name = [table for table in tables if table.name.lower() == name[-1].lower()]
    schema = name[-2].lower() if len(name) > 1 else None
    same_schema = [table for table in same_name if (table.schema.lower() if table.schema else None) == schema]
    if same_schema:
        return same_schema
    # The text may name the default schema of a table without a schema, or leave out a schema of the search path.
    return [table for table in same_name if table.schema is None or schema is None]


def statements_of(sql: str, mysql: bool) -> list[str]:
    """Return the statements of a text, without comments and literals. ``mysql``: see ``backslash_escapes``."""
    return [statement for part in _bare(sql, mysql).split(";") if (statement := part.strip())]


def _bare(sql: str, mysql: bool) -> str:
    not_sql = _NOT_SQL_ON_MYSQL if mysql else _NOT_SQL
    if mysql:
        sql = _EXECUTED_COMMENT.sub(lambda found: found["code"], sql)
    return not_sql.sub(lambda found: found["name"] or " ", sql)


def _executed(sql: str, mysql: bool) -> str:
    """Return the text, or the code of a DO, without comments, literals and statements that change no row."""
    if not mysql and _DO.match(sql):
        sql = ";".join(found["quoted"] or found["literal"] or "" for found in _CODE_OF_DO.finditer(sql))
    return _WITHOUT_CHANGES.sub(" ", _bare(sql, mysql))


@lru_cache(maxsize=1_000)
def _changed_names(sql: str, mysql: bool) -> frozenset[NameParts]:
    bare = _executed(sql, mysql)
    written = [found["table"] for pattern in (_INSERT, _COPY, _LOAD) for found in pattern.finditer(bare)]
    for pattern in (*_WITH_SEVERAL_TABLES, _USING) if mysql else _WITH_SEVERAL_TABLES:
        for found in pattern.finditer(bare):
            written += _NAME_PATTERN.findall(found["tables"])
    return frozenset(map(_split_name, written))


@lru_cache(maxsize=1_000)
def _truncated_names(sql: str, mysql: bool) -> tuple[list[NameParts], bool] | None:
    statements = statements_of(sql, mysql) if "truncate" in sql.lower() else ()
    found = _TRUNCATE.fullmatch(statements[0]) if len(statements) == 1 else None
    if found is None:
        return None
    named = [_TRUNCATED.fullmatch(part) for part in found["tables"].split(",")]
    if None in named:
        return None
    return [_split_name(one["table"]) for one in named if one is not None], found["cascade"] is not None


@lru_cache(maxsize=1_000)
def _temporary_names(sql: str, mysql: bool) -> frozenset[NameParts]:
    """Return the names of the temporary tables and views that the text creates, without their schema on PostgreSQL."""
    if "temp" not in sql.lower():
        return frozenset()
    bare, found = _executed(sql, mysql), set()
    for created in _CREATED.finditer(bare):
        name = _split_name(created["table"])
        is_placed = len(name) > 1 and name[0].lower() in _TEMPORARY_SCHEMAS and not mysql
        if is_placed or created["temporary"]:
            found.add(name[-1:] if is_placed else name)
    return frozenset(found | {_split_name(into["table"]) for into in _SELECTED_INTO.finditer(bare)})


@lru_cache(maxsize=1_000)
def _calls_code(sql: str, mysql: bool) -> bool:
    pattern = _CALL_IN_CODE if not mysql and _DO.match(sql) else _CALL
    return pattern.search(_executed(sql, mysql)) is not None


@lru_cache(maxsize=1_000)
def _words_of(sql: str, mysql: bool) -> frozenset[str]:
    return frozenset(_unquote(word).lower() for word in _WORD.findall(_executed(sql, mysql)))


def _split_name(name: str) -> NameParts:
    return tuple(_unquote(part) for part in re.findall(_IDENTIFIER, name))


def _unquote(part: str) -> str:
    quote = part[0]
    return part[1:-1].replace(quote * 2, quote) if quote in '"`' else part
