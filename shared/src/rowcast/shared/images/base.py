"""Define what each dialect provides to make row images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from sqlalchemy.sql.compiler import SQLCompiler

from rowcast.shared.tables.shape import PortableType


class ImageDialect(ABC):
    """Make SQL text from SQL text. Each ``str`` parameter and result is an SQL expression for the driver."""

    object_function: ClassVar[str]
    members_per_call: ClassVar[int | None] = None
    """The engine's limit on function arguments, in members of two arguments each. None: no limit."""

    def __init__(self, compiler: SQLCompiler) -> None:
        # Drivers with the paramstyle "format" or "pyformat" read a single % as the start of a parameter.
        self.percent = "%%" if compiler.preparer._double_percents else "%"

    def literal(self, text: str) -> str:
        """Return a string literal."""
        return "'" + text.replace("'", "''").replace("%", self.percent) + "'"

    @abstractmethod
    def value(self, sql: str, type_: PortableType) -> str:
        """Return the value of a JSON member, for a stored value ``sql`` of the type."""

    @abstractmethod
    def concatenate(self, parts: Sequence[str]) -> str:
        """Return the texts joined end to end. The result is NULL if a text is NULL."""

    def hyphenated(self, sql: str) -> str:
        """Return a UUID with hyphens. SQLAlchemy's Uuid stores 32 digits if it does not use the engine's own type."""
        pieces: list[str] = []
        for start, length in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12)):
            pieces += [self.literal("-"), f"substr({sql}, {start}, {length})"]
        return f"lower(CASE WHEN length({sql}) = 32 THEN {self.concatenate(pieces[1:])} ELSE {sql} END)"

    def row(self, members: Sequence[tuple[str, str]]) -> str:
        """Return the text of a JSON object. ``members``: (name, value)."""
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
