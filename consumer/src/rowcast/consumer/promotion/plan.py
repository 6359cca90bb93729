"""The plan of a promotion: statements, and tasks for a person.

The plan is the difference between the present tables and the shapes of the source. Therefore a new plan continues a
plan that was carried out in part, after any statement.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    """Statements for a table, in one transaction where the engine can.

    ``is_optional``: an error is reported and does not end the promotion, because the primary works without the step.
    ``remedy``: statements for an engine that refuses the step. A new plan follows the remedy.
    """

    table: str
    statements: tuple[str, ...]
    is_optional: bool = False
    remedy: tuple[str, ...] = ()


@dataclass(slots=True)
class Plan:
    """The steps, in this order. ``notes``: the tasks for a person, each with the name of the table or column."""

    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, table: str, *statements: str, is_optional: bool = False, remedy: tuple[str, ...] = ()) -> None:
        """Add a step."""
        self.steps.append(Step(table, statements, is_optional, remedy))

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)
