"""Read the condition of a view, from text to a tree. The grammar is closed, and nothing of it ever becomes SQL.

    condition  = term { "or" term }
    term       = factor { "and" factor }
    factor     = "not" factor | "(" condition ")" | comparison
    comparison = column                                        a boolean column
               | operand operator operand                      at least one operand is a column
               | column [ "not" ] "in" "(" literal { "," literal } ")"
               | column "is" [ "not" ] "null"
    operator   = "=" | "!=" | "<>" | "<" | "<=" | ">" | ">="
    literal    = number | text in single quotes | "true" | "false"

A column is a plain name, or any name in double quotes. The rules of precedence are those of SQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias

from rowcast.shared.errors import ConfigurationError

Operator = Literal["=", "!=", "<", "<=", ">", ">="]

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"(?:[^"]|"")+")|(?P<text>'(?:[^']|'')*')|(?P<number>[+-]?\d+(?:\.\d+)?(?![\w.]))"""
    r"""|(?P<word>[^\W\d]\w*)|(?P<sign><=|>=|<>|!=|[=<>(),]))"""
)
_KEYWORDS = frozenset(("and", "or", "not", "in", "is", "null", "true", "false"))
_OPERATORS: dict[str, Operator] = {"=": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_MOST_LEVELS = 100
_MOST_DIGITS = 1_000


class ConditionError(ConfigurationError):
    """The condition of a view is not valid."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column, by its name at the source."""

    name: str


@dataclass(frozen=True, slots=True)
class Value:
    """A literal."""

    value: Decimal | str | bool


Operand: TypeAlias = Column | Value


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two operands and the operator between them."""

    left: Operand
    operator: Operator
    right: Operand


@dataclass(frozen=True, slots=True)
class IsIn:
    """A column with its value among several literals."""

    column: Column
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class IsNull:
    """A column without a value."""

    column: Column


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of a condition. The opposite of unknown is unknown."""

    condition: Condition


@dataclass(frozen=True, slots=True)
class Both:
    """Conditions joined by AND."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """Conditions joined by OR."""

    conditions: tuple[Condition, ...]


Condition: TypeAlias = Column | Comparison | IsIn | IsNull | Not | Both | Either


def parse_condition(text: str) -> Condition:
    """Return the tree of a condition. Raise ConditionError with the place of the first fault."""
    return _Parser(text).parse()


def columns_of(condition: Condition) -> Iterator[str]:
    """Yield the name of each column in a condition, as often as the condition names the column."""
    match condition:
        case Column(name):
            yield name
        case Comparison(left, _, right):
            for operand in (left, right):
                if isinstance(operand, Column):
                    yield operand.name
        case IsIn(column, _) | IsNull(column):
            yield column.name
        case Not(inner):
            yield from columns_of(inner)
        case Both(conditions) | Either(conditions):
            for inner in conditions:
                yield from columns_of(inner)


class _Token(NamedTuple):
    """``kind``: the group of the token, ``keyword``, or ``end``. ``text``: in lower case for a keyword."""

    kind: str
    text: str
    at: int


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise ConditionError(f"character {start + 1} ({text[start]!r}) belongs to no word, number or text")
        kind, found = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "word" and found.lower() in _KEYWORDS:
            kind, found = "keyword", found.lower()
        yield _Token(kind, found, match.start(kind) if kind != "keyword" else match.start("word"))
        at = match.end()
    yield _Token("end", "the end", len(text))


class _Parser:
    """A parser by recursive descent, with a method for each rule."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._place = 0
        self._level = 0

    def parse(self) -> Condition:
        condition = self._condition()
        if self._next.kind != "end":
            raise self._unexpected("and, or, or the end")
        return condition

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _take(self, *texts: str) -> bool:
        """Take the next token if it is a keyword or a sign among the texts."""
        is_found = self._next.kind in ("keyword", "sign") and self._next.text in texts
        self._place += is_found
        return is_found

    def _require(self, text: str) -> None:
        if not self._take(text):
            raise self._unexpected(text)

    def _unexpected(self, wanted: str) -> ConditionError:
        token = self._next
        return ConditionError(f"character {token.at + 1}: {wanted} belongs here, and not {token.text}")

    def _condition(self) -> Condition:
        found = [self._term()]
        while self._take("or"):
            found.append(self._term())
        return found[0] if len(found) == 1 else Either(tuple(found))

    def _term(self) -> Condition:
        found = [self._factor()]
        while self._take("and"):
            found.append(self._factor())
        return found[0] if len(found) == 1 else Both(tuple(found))

    def _factor(self) -> Condition:
        self._level += 1
        if self._level > _MOST_LEVELS:
            raise ConditionError(f"the condition has more than {_MOST_LEVELS} levels")
        try:
            if self._take("not"):
                return Not(self._factor())
            if self._take("("):
                condition = self._condition()
                self._require(")")
                return condition
            return self._comparison()
        finally:
            self._level -= 1

    def _comparison(self) -> Condition:
        left = self._operand()
        if self._next.kind == "sign" and self._next.text in _OPERATORS:
            operator = _OPERATORS[self._next.text]
            self._place += 1
            right = self._operand()
            if isinstance(left, Value) and isinstance(right, Value):
                raise ConditionError("a comparison of two literals needs no column. Remove it")
            return Comparison(left, operator, right)
        if not isinstance(left, Column):
            raise self._unexpected("an operator")
        return self._of_column(left)

    def _of_column(self, column: Column) -> Condition:
        if self._take("is"):
            is_negated = self._take("not")
            self._require("null")
            return Not(IsNull(column)) if is_negated else IsNull(column)
        is_negated = self._take("not")
        if self._take("in"):
            self._require("(")
            values = [self._literal()]
            while self._take(","):
                values.append(self._literal())
            self._require(")")
            found = IsIn(column, tuple(values))
            return Not(found) if is_negated else found
        if is_negated:
            raise self._unexpected("in")
        return column

    def _operand(self) -> Operand:
        kind, text, _ = self._next
        if kind in ("word", "quoted"):
            self._place += 1
            return Column(text[1:-1].replace('""', '"') if kind == "quoted" else text)
        return self._literal()

    def _literal(self) -> Value:
        kind, text, _ = self._next
        if text == "null" and kind == "keyword":
            raise ConditionError("nothing equals NULL. Write `column is null`")
        if kind == "number" and len(text) > _MOST_DIGITS:
            raise ConditionError(f"a number has more than {_MOST_DIGITS} digits")
        if kind not in ("text", "number") and text not in ("true", "false"):
            raise self._unexpected("a column, a number, a text, true or false")
        self._place += 1
        if kind == "text":
            return Value(text[1:-1].replace("''", "'"))
        return Value(Decimal(text) if kind == "number" else text == "true")
