"""What a dialect must say to make row images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.shared.shapes import PortableType


class ImageDialect(ABC):
    """Makes SQL text from SQL text: every ``str`` in or out is an SQL expression, ready for the driver."""

    object_function: ClassVar[str]
    members_per_call: ClassVar[int | None] = None
    """An engine's limit on function arguments, in members (two arguments each)."""

    def __init__(self, compiler: SQLCompiler) -> None:
        # Drivers of the "format" and "pyformat" styles take a single % for a parameter's start.
        self.percent = "%%" if compiler.preparer._double_percents else "%"

    def literal(self, text: str) -> str:
        """A string literal."""
        return "'" + text.replace("'", "''").replace("%", self.percent) + "'"

    @abstractmethod
    def value(self, sql: str, type_: PortableType) -> str:
        """The expression that becomes a JSON member's value, for a stored value ``sql`` of that type."""

    @abstractmethod
    def concatenate(self, parts: Sequence[str]) -> str:
        """Texts end to end; NULL if any is."""

    def hyphenated(self, sql: str) -> str:
        """A UUID's text of 32 digits, as SQLAlchemy's Uuid stores it where it does not use a type of the engine's."""
        pieces: list[str] = []
        for start, length in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12)):
            pieces += [self.literal("-"), f"substr({sql}, {start}, {length})"]
        return f"lower(CASE WHEN length({sql}) = 32 THEN {self.concatenate(pieces[1:])} ELSE {sql} END)"

    def row(self, members: Sequence[tuple[str, str]]) -> str:
        """A JSON object's text."""
        limit = self.members_per_call or len(members)
        pieces = [self._object(members[i : i + limit]) for i in range(0, len(members), limit)]
        if len(pieces) == 1:
            return pieces[0]
        inner: list[str] = []
        for piece in pieces:
            inner += [self.literal(","), f"substr({piece}, 2, length({piece}) - 2)"]
        return self.concatenate([self.literal("{"), *inner[1:], self.literal("}")])

    def _object(self, members: Sequence[tuple[str, str]]) -> str:
        arguments = ", ".join(f"{self.literal(name)}, {sql}" for name, sql in members)
        return f"{self.object_function}({arguments})"
